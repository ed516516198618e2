"""Collecting: when to poll, what an answer means for the totals, and how the polls are going."""
