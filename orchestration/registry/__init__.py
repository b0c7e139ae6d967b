"""Versions of models: created, located, locked, decided about."""
