"""Cost of scrapes."""
