"""All operators by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import onnx_ir as ir

from r1trt.errors import PlanError
from r1trt.ops.dequantize_blocks import BLOCKS
from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.ops.dynamic_rope import DYNAMIC_ROPE
from r1trt.ops.embedding import EMBEDDING
from r1trt.ops.head_product import HEAD_LINEAR, HEAD_MATMUL
from r1trt.ops.hla_attention import HLA_ATTENTION
from r1trt.ops.lambda_gate import LAMBDA_GATE
from r1trt.ops.layer_function import LayerFunction
from r1trt.ops.layer_precision import LayerPrecision
from r1trt.ops.linear import LINEAR, LINEAR_BIAS
from r1trt.ops.operator import Operator
from r1trt.ops.residual_add import RESIDUAL_ADD
from r1trt.ops.rms_norm import RMS_NORM
from r1trt.ops.swiglu import SWIGLU


def _by_name(*operators: Operator[Any]) -> Mapping[str, Operator[Any]]:
    return MappingProxyType({operator.name: operator for operator in operators})


# The three operators that carry the architecture; TensorRT has them as plugins.
OPERATORS = _by_name(DYNAMIC_ROPE, HLA_ATTENTION, DYNAMIC_MOE)
_FUNCTIONS: tuple[LayerFunction[Any], ...] = (
    EMBEDDING,
    RMS_NORM,
    LINEAR,
    LINEAR_BIAS,
    SWIGLU,
    LAMBDA_GATE,
    HEAD_MATMUL,
    HEAD_LINEAR,
)

# The layers of a plan: every node of the exported graph of one of these types has exactly one entry.
LAYER_OPERATORS = _by_name(*_FUNCTIONS, RESIDUAL_ADD, *OPERATORS.values())


def operator_of(node: ir.Node) -> Operator[Any] | None:
    """Which of the three operators a node is."""
    found = OPERATORS.get(node.op_type)
    return found if found is not None and node.domain == found.domain else None


def layer_operator_of(node: ir.Node) -> Operator[Any] | None:
    """The operator of a node that a plan has an entry for."""
    found = LAYER_OPERATORS.get(node.op_type)
    return found if found is not None and node.domain == found.domain else None


def operator_of_layer(layer: LayerPrecision) -> Operator[Any]:
    """The operator that a plan's layer names.

    Raises:
        PlanError: There is none of this name.
    """
    found = LAYER_OPERATORS.get(layer.op)
    if found is None:
        known = ", ".join(LAYER_OPERATORS)
        raise PlanError(f"No layer has the type '{layer.op}'.", expected=known)
    return found


def layer_functions() -> dict[str, ir.Function]:
    """FP32 bodies of the exported graph's small layers, and of what dequantizes weights, by name."""
    functions = {operator.name: operator.function() for operator in _FUNCTIONS}
    return {**functions, BLOCKS.name: BLOCKS.function()}
