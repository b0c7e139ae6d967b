"""Commands that are killed, interrupted and starved of disk at seeded moments, repeated, and compared with undisturbed ones."""
