"""One run as Ray Train runs it: driver, worker, validation."""
