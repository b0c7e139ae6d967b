"""Networks that turn images into feature maps, and feature maps into features."""
