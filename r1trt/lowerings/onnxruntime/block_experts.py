"""Experts in INT8 or INT4 blocks for ONNX Runtime: com.microsoft.QMoE on what our own router decided.

The operator takes the weights of every expert for every token and skips those that are 0, so that adaptive k,
padding and experts in several parts cost nothing. Its stacks are constants, packed once, at load.

One layer's routed experts on two shared cores, ONNX Runtime 1.32, blocks of 32, milliseconds: the loop over
FP32 experts, the same loop with com.microsoft.MatMulNBits on codes that are gathered (and so dequantized at
every call), and QMoE. 16 experts of 2048 x 1408, 6 a token; 8 experts of 4096 x 2048, 4 a token.

| rows | loop FP32 | loop INT8 | QMoE INT8 | loop INT4 | QMoE INT4 |
|---|---|---|---|---|---|
| 1 | 273; 404 | 445; 1172 | 41; 49 | 737; 1289 | 24; 41 |
| 64 | 839; 2641 | 1466; 8804 | 209; 798 | 1668; 10278 | 215; 895 |
| 512 | 1073; 5853 | 1593; 11742 | 787; 4608 | 1880; 11301 | 929; 5210 |

Legend: T tokens, E experts, K experts of a token, D hidden size, F expert width, Fs width of the shared one.
"""

from __future__ import annotations

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.graph.block_codes import INT8_INPUT, MATMUL_NBITS, product_attributes
from r1trt.graph.domain import MICROSOFT
from r1trt.lowerings.onnxruntime.fused_experts import ALTERNATING, Given
from r1trt.ops.expert_parts import ExpertPart
from r1trt.ops.moe_spec import SHARED_SCALES, MoeSpec

_RAW_LAYOUT = 0  # weights_prepacked: as r1trt.graph.block_codes packs them


def part_in_blocks(
    op: OpBuilder, spec: MoeSpec, given: Given, part: ExpertPart, x_TD: ir.Value, weight_TE: ir.Value
) -> ir.Value:
    """The sum over one part's experts. Which are taken follows from their weights: others have 0."""
    weights = [given[part.input(name)] for name in ("w_gate_up", "gate_up_scale", "w_down", "down_scale")]
    y_TD: ir.Value = op.QMoE(
        x_TD,
        weight_TE,
        *weights[:2],
        None,
        *weights[2:],
        *[None] * 7,
        weight_TE,
        k=min(spec.top_k, part.count),
        normalize_routing_weights=0,
        activation_type="swiglu",
        activation_alpha=1.0,
        activation_beta=0.0,
        swiglu_fusion=ALTERNATING,
        weights_prepacked=_RAW_LAYOUT,
        expert_weight_bits=spec.bits,
        block_size=spec.block_size,
        accuracy_level=INT8_INPUT,
        _domain=MICROSOFT,
        _version=1,
    )
    return y_TD


def shared_in_blocks(op: OpBuilder, spec: MoeSpec, given: Given, x_TD: ir.Value) -> ir.Value:
    """What the shared expert makes of all tokens, [T,D]."""
    hidden, width = spec.hidden_size, spec.shared_width
    weights = [given[name] for name in ("shared_gate_up", "shared_down")]
    scales = [given[name] for name in SHARED_SCALES]
    product = _product(op, spec, x_TD, weights[0], scales[0], columns=hidden, rows=2 * width)
    gate, up = op.Split(product, num_outputs=2, axis=-1, _outputs=2)
    mid = op.Mul(op.Mul(gate, op.Sigmoid(gate)), up)
    return _product(op, spec, mid, weights[1], scales[1], columns=width, rows=hidden)


def _product(
    op: OpBuilder,
    spec: MoeSpec,
    x: ir.Value,
    codes: ir.Value,
    scales: ir.Value,
    *,
    columns: int,
    rows: int,
) -> ir.Value:
    y: ir.Value = getattr(op, MATMUL_NBITS)(
        x,
        codes,
        scales,
        **product_attributes(rows, columns, bits=spec.bits, block_size=spec.block_size, rounds_input=True),
        _domain=MICROSOFT,
        _version=1,
    )
    return y
