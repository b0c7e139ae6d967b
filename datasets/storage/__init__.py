"""Reads and writes of paths and objects, with retries, hedging and a cache."""
