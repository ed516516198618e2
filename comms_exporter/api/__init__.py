"""Twilio's API: requests, responses, errors, credentials."""
