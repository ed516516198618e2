"""Collect single emails: which of them to ask for, and what a response means for the counters."""
