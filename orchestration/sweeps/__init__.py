"""A sweep as plain data: its space, its configurations, what to try next, and what it found."""
