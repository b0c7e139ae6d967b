"""Parsing masks for a data set that has none, as a Ray Data job."""
