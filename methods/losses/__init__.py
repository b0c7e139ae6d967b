"""Losses: pure functions of tensors, one idea a file. They are batch means, gather nothing and keep no state."""
