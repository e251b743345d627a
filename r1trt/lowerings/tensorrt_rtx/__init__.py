"""Bodies of what TensorRT-RTX builds without a plugin: no Loop, If, NonZero or scatter reduction.

TensorRT gets them, too, where it needs no plugin.

They are generic in the activation type: the same bodies, typed FLOAT, run in ONNX Runtime.
"""

from __future__ import annotations

import onnx_ir as ir

from r1trt.lowerings.builder import Lowering
from r1trt.lowerings.tensorrt_rtx.attention import attention_body
from r1trt.lowerings.tensorrt_rtx.moe import moe_body
from r1trt.lowerings.tensorrt_rtx.rope import rope_body
from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.ops.dynamic_rope import DYNAMIC_ROPE
from r1trt.ops.hla_attention import HLA_ATTENTION, AttentionSpec
from r1trt.ops.moe_spec import MoeSpec


def _computes(spec: object) -> bool:
    """TensorRT-RTX multiplies nothing by block scales, knows FP8 by its type, and widens no cache."""
    if isinstance(spec, AttentionSpec):
        return spec.cache == spec.activation
    return not isinstance(spec, MoeSpec) or (spec.scales != "block" and spec.weights != ir.DataType.UINT8)


LOWERING = Lowering(
    bodies={
        DYNAMIC_ROPE.name: rope_body,
        HLA_ATTENTION.name: attention_body,
        DYNAMIC_MOE.name: moe_body,
    },
    computes=_computes,
)
