"""Cost of polls."""
