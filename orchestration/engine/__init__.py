"""Training in plain torch: loop, strategies, schedule, checkpoint, weights; no Ray, no MLflow."""
