"""A dense MLP: SwiGLU between three projections."""

from __future__ import annotations

import onnx_ir as ir

from r1trt.config import DenseConfig
from r1trt.export.forward import FLOAT, Forward, linear, sizes
from r1trt.ops.swiglu import SWIGLU


def dense_mlp(forward: Forward, index: int, config: DenseConfig, x: ir.Value) -> ir.Value:
    """Emit the MLP of layer `index` for x [B,S,D]."""
    emit, prefix = forward.emit, f"model.layers.{index}.mlp"
    gate = linear(emit, f"{prefix}.gate_proj", x, bias=config.bias)
    up = linear(emit, f"{prefix}.up_proj", x, bias=config.bias)
    (activated,) = emit.operator(SWIGLU, f"{prefix}.act", {"gate": gate, "up": up}, [(FLOAT, sizes(gate))])
    return linear(emit, f"{prefix}.down_proj", activated, bias=config.bias)
