"""Data sets: shards, protocols, streaming, augmentation. Imports neither Ray, nor MLflow, nor methods."""
