"""Each trap in the smallest graph that holds it, and the same graph without it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx.parser
import onnx_ir as ir
import pytest

from r1trt.arch import Backend
from r1trt.errors import BuildError
from r1trt.passes.check_traps import CheckBuilderFormsPass
from r1trt.passes.traps import builder_traps

HEADER = '<ir_version: 10, opset_import: ["" : 24, "r1trt" : 1]>'
QKV = "bfloat16[B,4,S,16] q, bfloat16[B,2,64,16] k, bfloat16[B,2,64,16] v, bool[B,1,S,64] mask"


@dataclass(frozen=True)
class TrapCase:
    """A graph, and what the one complaint about it says (None: there is none)."""

    name: str
    graph: str
    says: str | None
    backend: Backend = "tensorrt-rtx"
    sm: int = 89


CASES = [
    TrapCase("one_attention", f"g ({QKV}) => (y) {{ y = Attention(q, k, v, mask) }}", None),
    TrapCase(
        "shared_query",
        f"g ({QKV}, bfloat16[B,2,64,16] k2) => (a, b) "
        "{ a = Attention(q, k, v, mask) b = Attention(q, k2, v, mask) }",
        "shares its query",
    ),
    TrapCase(
        "shared_key",
        f"g ({QKV}, bfloat16[B,4,S,16] q2) => (a, b) "
        "{ a = Attention(q, k, v, mask) b = Attention(q2, k, v, mask) }",
        "shares its key",
    ),
    TrapCase(
        "shared_value_and_mask",
        f"g ({QKV}, bfloat16[B,4,S,16] q2, bfloat16[B,2,64,16] k2) => (a, b) "
        "{ a = Attention(q, k, v, mask) b = Attention(q2, k2, v, mask) }",
        None,
    ),
    TrapCase(
        "nonpad_kv_seqlen",
        f"g ({QKV}, int64[B] n) => (y) {{ y = Attention(q, k, v, mask, , , n) }}",
        "ignored in silence",
    ),
    TrapCase(
        "causal_with_mask",
        f"g ({QKV}) => (y) {{ y = Attention <is_causal = 1> (q, k, v, mask) }}",
        "is_causal and a mask",
    ),
    TrapCase("nonzero", "g (bool[S] x) => (y) { y = NonZero(x) }", "depends on data"),
    TrapCase("nonzero_elsewhere", "g (bool[S] x) => (y) { y = NonZero(x) }", None, backend="tensorrt"),
    TrapCase(
        "scatter_add",
        'g (float[4] x, int64[4] i, float[4] u) => (y) { y = ScatterElements <reduction = "add"> (x, i, u) }',
        "reduction 'add'",
    ),
    TrapCase(
        "static_cache",
        "g (bfloat16[B,2,64,16] c, bfloat16[B,2,S,16] x, int64[B] i) => (y) "
        "{ y = TensorScatter <axis = 2> (c, x, i) }",
        None,
    ),
    TrapCase(
        "dynamic_cache",
        "g (bfloat16[B,2,C,16] c, bfloat16[B,2,S,16] x, int64[B] i) => (y) "
        "{ y = TensorScatter <axis = 2> (c, x, i) }",
        "static capacity",
    ),
    TrapCase(
        "operator_without_body",
        "g (float[B,S,8] x) => (y) { y = r1trt.R1DynamicMoE(x) }",
        "looked up as a plugin",
    ),
    TrapCase(
        "operator_with_plugin",
        "g (float[B,S,8] x) => (y) { y = r1trt.R1DynamicMoE(x) }",
        None,
        backend="tensorrt",
    ),
    TrapCase(
        "foreign_operator", "g (float[8] x) => (y) { y = r1trt.Gadget(x) }", "plugin", backend="tensorrt"
    ),
    TrapCase(
        "no_output_dtype",
        "g (bfloat16[S,8] x, float s, float8e4m3fn[S,8] w) => (y) { y = DequantizeLinear(w, s) }",
        "output_dtype",
    ),
    TrapCase(
        "output_dtype",
        "g (bfloat16[S,8] x, float s, float8e4m3fn[S,8] w) => (y) "
        "{ y = DequantizeLinear <output_dtype = 16> (w, s) }",
        None,
    ),
    TrapCase(
        "fp8_gathered",
        "g (int64[S] i, float8e4m3fn[9,8] w) => (y) { y = Gather(w, i) }",
        "reads the FP8 tensor",
    ),
    TrapCase(
        "fp8_attention",
        "g (bfloat16[B,4,S,16] q, bfloat16[B,4,S,16] k, bfloat16[B,4,S,16] v, float s) => (y) "
        "{ c = QuantizeLinear <output_dtype = 17> (q, s) d = DequantizeLinear <output_dtype = 16> (c, s) "
        "y = Attention (d, k, v) }",
        "rounded to FP8 and computed in BF16",
    ),
    TrapCase(
        "fp8_attention_elsewhere",
        "g (bfloat16[B,4,S,16] q, bfloat16[B,4,S,16] k, bfloat16[B,4,S,16] v, float s) => (y) "
        "{ c = QuantizeLinear <output_dtype = 17> (q, s) d = DequantizeLinear <output_dtype = 16> (c, s) "
        "y = Attention (d, k, v) }",
        None,
        backend="tensorrt",
    ),
    TrapCase(
        "blocked_weights",
        "g (float[S,8] x, float s, float8e4m3fn[8,6] w, float[4,6] ws) => (y) "
        "{ q = QuantizeLinear <output_dtype = 17> (x, s) d = DequantizeLinear <output_dtype = 1> (q, s) "
        "e = DequantizeLinear <axis = 0, block_size = 2, output_dtype = 1> (w, ws) y = MatMul(d, e) }",
        "blocked weight scales",
    ),
    TrapCase(
        "blocked_weights_alone",
        "g (float[S,8] x, float8e4m3fn[8,6] w, float[4,6] ws) => (y) "
        "{ e = DequantizeLinear <axis = 0, block_size = 2, output_dtype = 1> (w, ws) y = MatMul(x, e) }",
        None,
    ),
    TrapCase(
        "int8_in_blocks",
        "g (float[S,8] x, int8[8,6] w, float[4,6] ws) => (y) "
        "{ e = DequantizeLinear <axis = 0, block_size = 2, output_dtype = 1> (w, ws) y = MatMul(x, e) }",
        "widened in memory at every call",
    ),
    TrapCase(
        "int8_below_89",
        "g (float[S,8] x, float s) => (y) "
        "{ q = QuantizeLinear <output_dtype = 3> (x, s) y = DequantizeLinear <output_dtype = 1> (q, s) }",
        None,
        sm=86,
    ),
    TrapCase(
        "fp8_below_89",
        "g (float[S,8] x, float s) => (y) "
        "{ q = QuantizeLinear <output_dtype = 17> (x, s) y = DequantizeLinear <output_dtype = 1> (q, s) }",
        "no builder takes for SM86",
        sm=86,
    ),
]


def model_of(case: TrapCase) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(HEADER + case.graph))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_traps_are_found_and_only_they(case: TrapCase) -> None:
    traps = builder_traps(model_of(case), case.backend, [case.sm])
    if case.says is None:
        assert traps == []
    else:
        (trap,) = traps
        assert case.says in trap.reason


def test_the_error_names_nodes_and_reasons() -> None:
    model = model_of(CASES[1])
    for index, node in enumerate(model.graph):
        node.name = f"layer.{index}.attention"
    with pytest.raises(BuildError) as caught:
        CheckBuilderFormsPass("tensorrt-rtx", [89]).call(model)
    assert "layer.1.attention" in caught.value.details["found"]
    assert "layer.0.attention" in caught.value.details["found"]
