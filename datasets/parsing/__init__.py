"""Human parsing of a data set that has no masks yet: networks, and images of any size to label maps and back."""
