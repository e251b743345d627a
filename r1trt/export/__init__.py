"""Checkpoint to ONNX: the graph is built from the configuration and the safetensors headers, never traced."""
