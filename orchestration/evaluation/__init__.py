"""A model on a data set by its protocol: embed, rank, render."""
