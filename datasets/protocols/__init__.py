"""Evaluation protocols: queries, galleries and rules, single-shot draws, the division of held-out persons."""
