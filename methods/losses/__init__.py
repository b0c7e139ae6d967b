"""Losses: pure functions of tensors, one idea a file. Batch means; nothing is gathered or kept here."""
