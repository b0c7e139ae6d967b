"""What a step of each method costs, and exact ranking and re-ranking."""
