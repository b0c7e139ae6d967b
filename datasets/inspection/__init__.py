"""What is in a data set: counts, a contact sheet, colour baselines."""
