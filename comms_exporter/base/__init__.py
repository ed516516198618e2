"""Building blocks that know nothing of emails: long work in slices, times, YAML, rate limits, printable text."""
