"""The files of a data set: columns, manifest, index, row groups, tracklets."""
