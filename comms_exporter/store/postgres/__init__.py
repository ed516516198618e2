"""Save the state of the accounts in PostgreSQL, shared by any number of exporters."""
