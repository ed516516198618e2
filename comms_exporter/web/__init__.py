"""The HTTP server: connections, authentication, TLS, the metrics and the status page."""
