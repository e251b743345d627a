"""Edits of ONNX graphs and weights in other types, shared by operators and passes."""
