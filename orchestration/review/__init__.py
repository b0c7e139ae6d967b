"""Candidate against champion: comparison, evidence, page."""
