"""A path or an object, read and written with retries, hedging and a cache."""
