"""Conversion of a source to a data set: checks, counts, report, writing; and the holdout of a validation set."""
