"""Opening, writing and verifying a data set; grouping its samples into row groups."""
