"""Transports: what hands a server's requests to the scheduler."""
