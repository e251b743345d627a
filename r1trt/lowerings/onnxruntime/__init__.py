"""Bodies that ONNX Runtime executes: only routed tokens, only the blocks that are needed."""

from __future__ import annotations

from r1trt.lowerings.builder import FLOAT, Lowering
from r1trt.lowerings.onnxruntime.attention import attention_body
from r1trt.lowerings.onnxruntime.moe import moe_body
from r1trt.lowerings.onnxruntime.rope import rope_body
from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.ops.dynamic_rope import DYNAMIC_ROPE, RopeSpec
from r1trt.ops.hla_attention import HLA_ATTENTION, AttentionSpec
from r1trt.ops.moe_spec import MoeSpec


def _computes(spec: RopeSpec | AttentionSpec | MoeSpec) -> bool:
    """Kernels on the CPU are FP32 alone, beside any cache; the experts' body rounds, and indexes no FP8."""
    return not spec.fp8 if isinstance(spec, MoeSpec) else spec.activation == FLOAT


LOWERING = Lowering(
    bodies={
        DYNAMIC_ROPE.name: rope_body,
        HLA_ATTENTION.name: attention_body,
        DYNAMIC_MOE.name: moe_body,
    },
    computes=_computes,
)
