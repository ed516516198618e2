"""Poll accounts: when to list what, what a response means for the totals, and how the polls are going."""
