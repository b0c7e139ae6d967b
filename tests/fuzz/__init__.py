"""Inputs of every kind that users give, valid ones and damaged ones: each works, or one of our errors names it."""
