"""The alerting rules: the two files that are shipped, with the thresholds, links and labels of a configuration file."""
