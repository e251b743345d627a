"""Continuous batching of requests over a session, whatever server they come from."""
