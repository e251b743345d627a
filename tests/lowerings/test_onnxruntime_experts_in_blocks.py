"""Experts in INT8 and INT4 blocks: ONNX Runtime's QMoE on our bytes against the dequantized weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from lowerings.test_expert_parts import in_parts
from lowerings.test_tensorrt_rtx import INT64, MoeCase, moe_reference, moe_weights
from numpy.typing import NDArray
from passes.hand_made import HandMade, outputs_of, plan_of
from passes.typed import typed_model_from_plan

from r1trt.errors import ExportError
from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.ops.expert_parts import part_inputs
from r1trt.ops.layer_precision import LayerPrecision, Precision

Array = NDArray[Any]
HIDDEN, WIDTH, TOKENS = 64, 32, 40
SIZES: dict[str, Any] = {"hidden": HIDDEN, "width": WIDTH}
CASES = [
    MoeCase("softmax", **SIZES),
    MoeCase("adaptive", adaptive_threshold=0.5, top_k_min=2, norm_topk_prob=0, **SIZES),
    MoeCase("ragged shared", shared_width=40, **SIZES),
    MoeCase(
        "deepseek", 1, 2, 4, 2, 0.6, n_group=4, topk_group=2, routed_scaling_factor=2.5, bias=True,
        shared_width=32, **SIZES,
    ),
]  # fmt: skip
# Activations in 8 bits change a result by 1 to 2 % of its size; FP32 activations by nothing.
TOLERANCE = 0.03


def layer_of(weight: Precision, block_size: int | None, shared: bool) -> LayerPrecision:
    return LayerPrecision(
        op="R1DynamicMoE",
        input="int8",
        weight=weight,
        output="fp32",
        block_size=block_size,
        shared_weight=weight if shared else None,
        reason="a test",
    )


def exported(case: MoeCase, weights: dict[str, Array], parts: int) -> ir.Model:
    graph = HandMade()
    values = {
        "x": graph.input("x", ["B", "S", case.hidden]),
        "seq_len": graph.input("seq_len", ["B"], INT64),
    }
    given = in_parts({name: np.float32(value) for name, value in weights.items()}, parts, case.experts)
    values |= {name: graph.weight(name, array) for name, array in given.items()}
    attributes = {name: getattr(case, name) for name in DYNAMIC_MOE.attributes} | {"expert_parts": parts}
    inputs = [values.get(name) for name in DYNAMIC_MOE.inputs + part_inputs(parts)]
    y = graph.node("R1DynamicMoE", "moe", inputs, ["B", "S", case.hidden], **attributes)
    graph.output(y, "y")
    return graph.model()


def typed(case: MoeCase, weights: dict[str, Array], layer: LayerPrecision, parts: int = 1) -> ir.Model:
    model = exported(case, weights, parts)
    return typed_model_from_plan(model, plan_of(model, {"moe": layer}), "onnxruntime")


def matrices(graph: ir.Graph, name: str, code: Precision, size: int, columns: int) -> Array:
    """A weight or a stack as ONNX Runtime documents its codes, all rows below each other."""
    tensors = [graph.initializers[f"{name}.{code}_blocks{size}{end}"].const_value for end in ("", ".scales")]
    codes, scales = (tensor.numpy() for tensor in tensors if tensor is not None)
    rows = codes.reshape(scales.shape[0] * (1 if scales.ndim == 2 else scales.shape[1]), -1)
    zero = 128
    if code == "int4":
        rows, zero = np.stack([rows % 16, rows // 16], axis=2).reshape(len(rows), -1), 8
    steps = scales.reshape(len(rows), -1).repeat(size, axis=1)
    values: Array = (rows.astype(np.float64) - zero) * steps
    return values[:, :columns]


def dequantized(
    case: MoeCase, typed_model: ir.Model, code: Precision, size: int, parts: int
) -> dict[str, Array]:
    """The weights that the typed graph's codes stand for, in the operator's layout."""
    graph, found = typed_model.graph, {}
    ends = ["", *(f".{index}" for index in range(1, parts))]
    gate_up = np.concatenate([matrices(graph, f"w_gate_up{end}", code, size, case.hidden) for end in ends])
    by_turns = gate_up.reshape(case.experts, case.width, 2, case.hidden)
    found["w_gate_up"] = by_turns.transpose(0, 2, 1, 3).reshape(case.experts, -1, case.hidden)
    down = np.concatenate([matrices(graph, f"w_down{end}", code, size, case.width) for end in ends])
    found["w_down"] = down.reshape(case.experts, case.hidden, case.width)
    if case.shared_width:
        found["shared_gate_up"] = matrices(graph, "shared_gate_up", code, size, case.hidden)
        found["shared_down"] = matrices(graph, "shared_down", code, size, case.shared_width)
    return found


def assert_agrees(case: MoeCase, weights: dict[str, Array], x: Array, seq_len: Array, y: Array) -> None:
    """Padding gives 0; the other tokens are as the reference, but where its routing is a near tie."""
    differences, wanted = [], []
    for row, token in np.ndindex(*x.shape[:2]):
        if token >= seq_len[row]:
            np.testing.assert_array_equal(y[row, token], 0)
            continue
        expected, margin = moe_reference(case, weights, x[row, token])
        if margin > 1e-5:
            differences.append(y[row, token] - expected)
            wanted.append(expected)
    error = np.sqrt(np.square(differences).mean() / np.square(wanted).mean())
    assert 1e-3 < error < TOLERANCE, f"{case.name}: {error:.4f}"


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("code", ["int8", "int4"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_result_is_that_of_the_rounded_weights(
    case: MoeCase, code: Precision, size: int, parts: int
) -> None:
    weights = moe_weights(case)
    model = typed(case, weights, layer_of(code, size, bool(case.shared_width)), parts)
    rounded = weights | dequantized(case, model, code, size, parts)
    for name in ("w_gate_up", "w_down"):
        relative = np.abs(rounded[name] - weights[name]).mean() / np.abs(weights[name]).mean()
        assert relative < (0.01 if code == "int8" else 0.15)
    x, seq_len = np.random.default_rng(3).standard_normal((3, TOKENS, HIDDEN)), np.array([TOKENS, 7, 0])
    y = outputs_of(model, {"x": np.float32(x), "seq_len": seq_len})["y"]
    assert_agrees(case, rounded, x, seq_len, y)
    y = outputs_of(model, {"x": np.float32(x[:1, :1]), "seq_len": seq_len[:1]})["y"]
    assert_agrees(case, rounded, x[:1, :1], seq_len[:1], y)


@pytest.mark.parametrize(("size", "hidden", "width"), [(64, 128, 64), (128, 256, 128), (256, 256, 256)])
@pytest.mark.parametrize("code", ["int8", "int4"])
def test_every_block_size(code: Precision, size: int, hidden: int, width: int) -> None:
    """One block a row among them."""
    case = MoeCase("larger", hidden=hidden, width=width, experts=4)
    weights = moe_weights(case)
    model = typed(case, weights, layer_of(code, size, shared=False))
    rounded = weights | dequantized(case, model, code, size, 1)
    x, seq_len = np.random.default_rng(3).standard_normal((1, 20, hidden)), np.array([20])
    y = outputs_of(model, {"x": np.float32(x), "seq_len": seq_len})["y"]
    assert_agrees(case, rounded, x, seq_len, y)


def test_the_node_says_what_it_holds() -> None:
    case = CASES[2]
    (node,) = (
        node
        for node in typed(case, moe_weights(case), layer_of("int4", 16, shared=True), 3).graph
        if node.op_type == "R1DynamicMoE"
    )
    spec = DYNAMIC_MOE.spec_from_node(node)
    found = (spec.hidden_size, spec.expert_width, spec.shared_width, spec.bits, spec.block_size)
    assert found == (HIDDEN, WIDTH, 40, 4, 16) and not spec.quantizes_input
    assert [DYNAMIC_MOE.part_of_input(name) for name in DYNAMIC_MOE.input_names(node)[-2:]] == [
        "shared expert"
    ] * 2
    other = ir.Value(name="other", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([3, 64, 5]))
    DYNAMIC_MOE.set_input(node, "gate_up_scale", other)
    with pytest.raises(ExportError, match="Codes and scales of R1DynamicMoE do not fit together"):
        DYNAMIC_MOE.spec_from_node(node)


def test_rows_of_broken_blocks_are_refused() -> None:
    (node,) = exported(CASES[0], moe_weights(CASES[0]), 1).graph
    layer = layer_of("int8", 64, shared=False)
    assert list(DYNAMIC_MOE.node_problems(node, layer)) == [
        "the experts' width is 32, no multiple of block_size, which is 64"
    ]
    assert not list(DYNAMIC_MOE.node_problems(node, replace(layer, block_size=32)))
