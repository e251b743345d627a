"""Bodies that ONNX Runtime executes in FP32: only routed tokens, only the blocks that are needed."""

from __future__ import annotations

from r1trt.lowerings.builder import FLOAT, Lowering
from r1trt.lowerings.onnxruntime.attention import attention_body
from r1trt.lowerings.onnxruntime.moe import moe_body
from r1trt.lowerings.onnxruntime.rope import rope_body
from r1trt.ops.dynamic_moe import DYNAMIC_MOE, MoeSpec
from r1trt.ops.dynamic_rope import DYNAMIC_ROPE, RopeSpec
from r1trt.ops.hla_attention import HLA_ATTENTION, AttentionSpec


def _computes(spec: RopeSpec | AttentionSpec | MoeSpec) -> bool:
    """ONNX Runtime has CPU kernels for FP32 alone; the bodies cast weights, but know no scales."""
    return spec.activation == FLOAT and not (isinstance(spec, MoeSpec) and spec.fp8)


LOWERING = Lowering(
    bodies={
        DYNAMIC_ROPE.name: rope_body,
        HLA_ATTENTION.name: attention_body,
        DYNAMIC_MOE.name: moe_body,
    },
    computes=_computes,
)
