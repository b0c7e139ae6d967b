"""A source becomes a data set: checked, counted, reported, written; held-out people become a validation set."""
