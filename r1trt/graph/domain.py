"""The ONNX domain of the project's operators, and the versions that its graphs are written in."""

from __future__ import annotations

DOMAIN = "r1trt"
MICROSOFT = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""
DOMAIN_VERSION = 1
OPSET = 24
IR_VERSION = 12
DEQUANTIZE_BLOCKS = "R1DequantizeBlocks"
"""Operator in front of weights that are FP8 with block scales."""
