"""Stands in for TensorRT: calls the plugins of a library as a builder and an engine would."""
