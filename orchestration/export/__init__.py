"""A trained network as a graph that needs nothing of redress."""
