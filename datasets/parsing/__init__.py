"""Human parsing of a data set without masks: networks, their input and output, and the data set rewritten with masks."""
