"""A tiny CLIP for machines without a GPU: two towers trained on rendered people and the sentences about them."""
