"""What a save costs."""
