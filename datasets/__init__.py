"""What is learned from: shards, protocols, streaming, augmentation. Knows neither Ray, MLflow nor methods."""
