"""The batches of a plan, read and decoded ahead."""
