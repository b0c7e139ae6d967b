"""Many trainings over a space of settings, as Ray Tune runs them."""
