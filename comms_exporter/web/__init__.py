"""What the exporter serves over HTTP, and who may connect."""
