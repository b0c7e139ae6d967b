"""A data set opened, written, grouped into row groups and verified."""
