"""What is learned: one paper, one file, one class."""
