"""Streaming, augmentation, storage, conversion: speed and memory against the alternatives."""
