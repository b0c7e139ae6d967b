"""The embedded data set: rendered pedestrians with exact LIP-20 parsing. No real person is in it."""
