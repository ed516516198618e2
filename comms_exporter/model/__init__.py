"""Plain values that everything else shares: operations, how to read their counters, what is known of each."""
