"""The embedded data set: rendered pedestrians with exact LIP-20 parsing masks. It shows no real person."""
