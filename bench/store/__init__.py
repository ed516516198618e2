"""Cost of saves."""
