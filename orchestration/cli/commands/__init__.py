"""The commands of `redress`, one file a group: options, call and view of each."""
