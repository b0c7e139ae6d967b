"""From a run's storage to MLflow, nothing lost or doubled."""
