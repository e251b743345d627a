"""Lowerings: the three operators' bodies as model-local functions, a folder a backend."""
