"""Classifiers whose classes are divided over the workers: who holds which, how they start, and the losses over all of them."""
