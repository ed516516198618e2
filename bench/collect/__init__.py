"""What a poll costs."""
