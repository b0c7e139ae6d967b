"""Decoding, augmentation, label maps and cues of images."""
