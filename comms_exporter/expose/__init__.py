"""The page that Prometheus reads: metrics, text, compression, negotiation."""
