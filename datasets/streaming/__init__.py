"""The plan's batches, read and decoded ahead."""
