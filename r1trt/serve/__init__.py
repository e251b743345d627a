"""Engines as model repositories of inference servers."""
