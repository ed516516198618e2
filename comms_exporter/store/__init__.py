"""Save the state of the accounts: a store loads and saves plain records, in a background thread."""
