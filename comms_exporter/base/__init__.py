"""Small things that know nothing of emails: long work in slices, YAML, rate limits, suggestions."""
