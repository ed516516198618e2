"""A Prometheus exporter for the email operations of Twilio's Comms API."""

__version__ = "0.1.0"
