"""What sweeps and reviews cost around the training."""
