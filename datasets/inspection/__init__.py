"""Inspection of a data set: counts, a contact sheet, colour baselines."""
