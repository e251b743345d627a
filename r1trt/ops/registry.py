"""All operators by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import onnx_ir as ir

from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.ops.dynamic_rope import DYNAMIC_ROPE
from r1trt.ops.hla_attention import HLA_ATTENTION
from r1trt.ops.operator import DOMAIN, Operator

# The three operators that carry the architecture; TensorRT has them as plugins.
OPERATORS: Mapping[str, Operator[Any]] = MappingProxyType(
    {operator.name: operator for operator in (DYNAMIC_ROPE, HLA_ATTENTION, DYNAMIC_MOE)}
)


def operator_of(node: ir.Node) -> Operator[Any] | None:
    """The operator that a node is one of."""
    return OPERATORS.get(node.op_type) if node.domain == DOMAIN else None
