"""A dense MLP: SwiGLU between three projections."""

from __future__ import annotations

import onnx_ir as ir

from r1trt.config import DenseConfig
from r1trt.export import functions
from r1trt.export.forward import Forward, linear, sizes


def dense_mlp(forward: Forward, index: int, config: DenseConfig, x: ir.Value) -> ir.Value:
    """Emit the MLP of layer `index` for x [B,S,D]."""
    emit, prefix = forward.emit, f"model.layers.{index}.mlp"
    gate = linear(emit, f"{prefix}.gate_proj", x, bias=config.bias)
    up = linear(emit, f"{prefix}.up_proj", x, bias=config.bias)
    activated = emit.call(functions.SWIGLU, f"{prefix}.act", [gate, up], sizes(gate))
    return linear(emit, f"{prefix}.down_proj", activated, bias=config.bias)
