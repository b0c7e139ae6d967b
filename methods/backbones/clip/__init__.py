"""The two towers of CLIP (Radford et al., ICML 2021): images and prompts become features of one space."""
