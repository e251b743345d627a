"""The quantized forms of a product that scripts/builder_capabilities.py asks a builder for, as ONNX graphs.

As the project writes them: weights [N, K] with a Transpose behind them, FP32 scales, DequantizeLinear with
`output_dtype`. In ONNX 1 is FLOAT, 3 INT8, 16 BFLOAT16 and 17 FLOAT8E4M3FN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.checker
import onnx.parser
from onnx import numpy_helper

K, N, EXPERTS, BLOCK = 256, 384, 4, 128
ROWS = (1, 64, 512)  # smallest, tuned for, largest

_HEAD = '<ir_version: 12, opset_import: ["" : 24]> g'
_TO = {"fp8": 17, "int8": 3}
_KINDS: Mapping[str, tuple[Any, float]] = {  # of constants: their type, and the largest value
    "fp32": (np.float32, 1),
    "bf16": (ml_dtypes.bfloat16, 1),
    "fp8": (ml_dtypes.float8_e4m3fn, 448),
    "int8": (np.int8, 127),
    "int4": (ml_dtypes.int4, 7),
    "scale": (np.float32, 0),
    "bf16 scale": (ml_dtypes.bfloat16, 0),
}

Constants = Mapping[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True, kw_only=True)
class Form:
    """One way of writing a product.

    Attributes:
        title: What it is, for people.
        nodes: Its graph in ONNX text, from the inputs to `y`.
        operands: Type that both sides of its products should have.
        weight: Type that its weight `w` should be stored in; None without one.
        signature: The graph's inputs and output in ONNX text.
        constants: Kind and shape of every constant by its name.
        blocked: Whether the weight has several scales along the sum, so that one product of the codes
            cannot be right.
    """

    title: str
    nodes: str
    operands: str
    weight: str | None = None
    signature: str = f"(bfloat16[M, {K}] x) => (bfloat16[M, {N}] y)"
    constants: Constants = field(default_factory=dict)
    blocked: bool = False

    @property
    def weight_elements(self) -> int:
        """Number of the weight's values; 0 without one."""
        return int(np.prod(self.constants["w"][1])) if "w" in self.constants else 0


def model_of_form(form: Form) -> onnx.ModelProto:
    """The form's graph, with the same constants at every call, which no builder can fold into one."""
    model = onnx.parser.parse_model(f"{_HEAD} {form.signature} {{ {form.nodes} }}")
    random = np.random.default_rng(0)
    for name, (kind, shape) in form.constants.items():
        dtype, most = _KINDS[kind]
        values = random.uniform(-most, most, shape) if most else random.uniform(0.01, 0.02, shape)
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values).astype(dtype), name))
    onnx.checker.check_model(model)
    return model


def _rounded(kind: str, name: str = "x", blocked: str = "") -> str:
    """`name` to the grid of `kind` and back, as `name`d."""
    return (
        f"{name}q = QuantizeLinear <output_dtype = {_TO[kind]}, precision = 1{blocked}> ({name}, xs)\n"
        f"{name}d = DequantizeLinear <output_dtype = 16{blocked}> ({name}q, xs)\n"
    )


def _product(left: str, attributes: str = "", perm: str = "1, 0", scale: str = "ws") -> str:
    """A product with the transposed weight, dequantized with a scale."""
    return (
        f"wd = DequantizeLinear <output_dtype = 16{attributes}> (w, {scale})\n"
        f"wt = Transpose <perm = [{perm}]> (wd)\n[product] y = MatMul ({left}, wt)\n"
    )


def _straight(left: str) -> str:
    """A product with a weight [K, N], in blocks along K."""
    return (
        f"wd = DequantizeLinear <output_dtype = 16, axis = 0, block_size = {BLOCK}> (w, ws)\n"
        f"[product] y = MatMul ({left}, wd)\n"
    )


def _plain(onnx_type: str, kind: str, title: str) -> Form:
    return Form(
        title=title,
        nodes="wt = Transpose <perm = [1, 0]> (w)\n[product] y = MatMul (x, wt)",
        operands=kind,
        weight=kind,
        signature=f"({onnx_type}[M, {K}] x) => ({onnx_type}[M, {N}] y)",
        constants={"w": (kind, (N, K))},
    )


_ROWS, _BLOCKS = ", axis = 0", f", axis = 1, block_size = {BLOCK}"
_SCALES: Mapping[str, tuple[int, ...]] = {"": (), _ROWS: (N,), _BLOCKS: (N, K // BLOCK)}
_STORED = {"fp8": "fp8_e4m3", "int8": "int8", "int4": "int4"}


def _weight_only(kind: str, attributes: str, title: str) -> Form:
    return Form(
        title=title,
        nodes=_product("x", attributes),
        operands="bf16",
        weight=_STORED[kind],
        constants={"w": (kind, (N, K)), "ws": ("scale", _SCALES[attributes])},
    )


def _both(kind: str, attributes: str, title: str) -> Form:
    return Form(
        title=title,
        nodes=_rounded(kind) + _product("xd", attributes),
        operands=_STORED[kind],
        weight=_STORED[kind],
        constants={"w": (kind, (N, K)), "ws": ("scale", _SCALES[attributes]), "xs": ("scale", ())},
        blocked=attributes == _BLOCKS,
    )


def _both_straight(kind: str, title: str) -> Form:
    constants: Constants = {"w": (kind, (K, N)), "ws": ("scale", (K // BLOCK, N)), "xs": ("scale", ())}
    return Form(
        title=title,
        nodes=_rounded(kind) + _straight("xd"),
        operands=_STORED[kind],
        weight=_STORED[kind],
        constants=constants,
        blocked=True,
    )


def _dynamic(kind: str, title: str, *, rows: bool = False) -> Form:
    """Scales of the activation computed in the graph from its largest values, one in all or one a row."""
    blocked = f", axis = 1, block_size = {K}" if rows else ""
    last = "last = Constant <value_ints = [1]> ()\n" if rows else ""
    maximum = "ReduceMax (xa, last)" if rows else "ReduceMax <keepdims = 0> (xa)"
    scale = f"xa = Abs (x)\nxm = {maximum}\nxf = Cast <to = 1> (xm)\nxs = Mul (xf, share)\n"
    return Form(
        title=title,
        nodes=last + scale + _rounded(kind, blocked=blocked) + _product("xd"),
        operands=_STORED[kind],
        weight=_STORED[kind],
        constants={"w": (kind, (N, K)), "ws": ("scale", ()), "share": ("scale", ())},
    )


def _attention(operands: str, nodes: str, title: str) -> Form:
    heads = "bfloat16[1, 4, M, 64]"
    rounded = "" if operands == "bf16" else "".join(_rounded("fp8", name) for name in "qkv")
    return Form(
        title=title,
        nodes=rounded + nodes,
        operands=operands,
        signature=f"({heads} q, {heads} k, {heads} v) => ({heads} y)",
        constants={} if operands == "bf16" else {"xs": ("scale", ())},
    )


def _experts(nodes: str, scales: Mapping[str, tuple[int, ...]], title: str) -> Form:
    """A batch of products; `nodes` end in `y`."""
    constants = {name: ("scale", shape) for name, shape in scales.items()}
    return Form(
        title=title,
        nodes=_rounded("fp8") + nodes,
        operands="fp8_e4m3",
        weight="fp8_e4m3",
        signature=f"(bfloat16[M, {K}] x) => (bfloat16[{EXPERTS}, M, {N}] y)",
        constants={"w": ("fp8", (EXPERTS, N, K)), "xs": ("scale", ()), **constants},
    )


_EXPERT = f"{EXPERTS} experts in one batched product, FP8 x FP8"
_FUSED = "[product] y = Attention <is_causal = 1, scale = 0.125> (q{0}, k{0}, v{0})"
_SCORES = "kt = Transpose <perm = [0, 1, 3, 2]> (kd)\n[scores] s = MatMul (qd, kt)\np = Softmax (s)\n"

FORMS: Mapping[str, Form] = MappingProxyType(
    {
        "fp32": _plain("float", "fp32", "FP32"),
        "bf16": _plain("bfloat16", "bf16", "BF16"),
        "fp8": _both("fp8", "", "FP8 x FP8, static scale, one scale a weight"),
        "fp8_rows": _both("fp8", _ROWS, "FP8 x FP8, static scale, one scale a row of the weight"),
        "fp8_blocks": _both_straight(
            "fp8", "FP8 x FP8, static scale, scales by blocks of 128 along K, [K, N]"
        ),
        "fp8_blocks_transposed": _both("fp8", _BLOCKS, "the same, [N, K] and Transpose"),
        "fp8_dynamic": _dynamic("fp8", "FP8 x FP8, scale of the activation computed in the graph"),
        "fp8_dynamic_rows": _dynamic("fp8", "the same, one scale a row of the activation", rows=True),
        "fp8_weight": _weight_only("fp8", "", "FP8 weight alone, one scale"),
        "fp8_weight_rows": _weight_only("fp8", _ROWS, "FP8 weight alone, one scale a row"),
        "fp8_weight_blocks": _weight_only(
            "fp8", _BLOCKS, "FP8 weight alone, scales by blocks of 128 along K"
        ),
        "int8": _both("int8", "", "INT8 x INT8, static scale, one scale a weight"),
        "int8_rows": _both("int8", _ROWS, "INT8 x INT8, static scale, one scale a row of the weight"),
        "int8_blocks": _both_straight(
            "int8", "INT8 x INT8, static scale, scales by blocks of 128 along K, [K, N]"
        ),
        "int8_dynamic": _dynamic("int8", "INT8 x INT8, scale of the activation computed in the graph"),
        "int8_weight_rows": _weight_only("int8", _ROWS, "INT8 weight alone, one scale a row"),
        "int8_weight_blocks": _weight_only(
            "int8", _BLOCKS, "INT8 weight alone, scales by blocks of 128 along K"
        ),
        "int4_weight_blocks": Form(
            title="INT4 weight alone, BF16 scales by blocks of 128 along K",
            nodes=_product("x", _BLOCKS),
            operands="bf16",
            weight="int4",
            constants={"w": ("int4", (N, K)), "ws": ("bf16 scale", (N, K // BLOCK))},
        ),
        "int4_weight_blocks_fp32": _weight_only("int4", _BLOCKS, "the same, FP32 scales"),
        "attention_bf16": _attention("bf16", _FUSED.format(""), "fused attention, BF16"),
        "attention_fp8": _attention(
            "fp8_e4m3", _FUSED.format("d"), "fused attention, FP8 Q/DQ of query, key and value"
        ),
        "attention_fp8_products": _attention(
            "fp8_e4m3",
            _SCORES + _rounded("fp8", "p") + "[product] y = MatMul (pd, vd)",
            "two products and a Softmax, FP8 Q/DQ in front of both",
        ),
        "experts_fp8": _experts(_product("xd", perm="0, 2, 1"), {"ws": ()}, f"{_EXPERT}, one scale"),
        "experts_fp8_scales": _experts(
            _product("xd", _ROWS, "0, 2, 1"), {"ws": (EXPERTS,)}, f"{_EXPERT}, one scale an expert"
        ),
        "experts_fp8_scaled_after": _experts(
            _product("xd", perm="0, 2, 1", scale="one").replace("y =", "yp =")
            + "yf = Cast <to = 1> (yp)\nys = Mul (yf, ws)\ny = Cast <to = 16> (ys)",
            {"one": (), "ws": (EXPERTS, 1, 1)},
            f"{_EXPERT}, one scale an expert behind it",
        ),
    }
)
