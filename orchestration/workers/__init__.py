"""A group of workers: its nodes, its network, and the watch that ends it where it stands still."""
