"""Experts in several parts: the same numbers as in one, on both backends."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from lowerings.test_tensorrt_rtx import FLOAT, INT64, MOE_CASES, MoeCase, moe_weights, session_of
from numpy.typing import NDArray

from r1trt.errors import ExportError
from r1trt.lowerings.bodies import LoweringBackend, set_bodies
from r1trt.lowerings.statistics import Statistic, mid_inputs, mid_statistic_function
from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.ops.expert_parts import PARTED, expert_parts, fewest_parts, part_inputs
from r1trt.ops.operator import DOMAIN, DOMAIN_VERSION, IR_VERSION, OPSET

Array = NDArray[Any]
CASES = [MOE_CASES[1], MOE_CASES[3], MOE_CASES[5]]
BACKENDS: tuple[LoweringBackend, ...] = ("onnxruntime", "tensorrt-rtx")


def in_parts(inputs: dict[str, Array], parts: int, experts: int) -> dict[str, Array]:
    """Stacks and scales cut into parts, by the operator's names; a shared expert's scale stays in part 0."""
    cut = {name: value for name, value in inputs.items() if name not in PARTED}
    for name in PARTED:
        for part in expert_parts(experts, parts) if name in inputs else ():
            whole = inputs[name]
            behind = whole[experts:] if part.index == 0 else whole[:0]
            cut[part.input(name)] = np.concatenate([whole[part.first : part.stop], behind])
    return cut


def model_of(case: MoeCase, inputs: dict[str, Array], parts: int, backend: LoweringBackend) -> ir.Model:
    """One node of the case, its weights as initializers."""
    given = in_parts(inputs, parts, case.experts)
    values = {
        "x": ir.Value(name="x", type=ir.TensorType(FLOAT), shape=ir.Shape(["B", "S", case.hidden])),
        "seq_len": ir.Value(name="seq_len", type=ir.TensorType(INT64), shape=ir.Shape(["B"])),
    }
    weights = {}
    for name, array in given.items():
        tensor = ir.tensor(array, name=name)
        weights[name] = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor
        )
    attributes = {name: getattr(case, name) for name in DYNAMIC_MOE.attributes} | {"expert_parts": parts}
    attributes["weight_only"] = int(given["w_gate_up"].dtype == np.uint8)
    y = ir.Value(name="y", type=ir.TensorType(FLOAT), shape=values["x"].shape)
    names = DYNAMIC_MOE.inputs + part_inputs(parts)
    node = ir.node(
        DYNAMIC_MOE.name,
        [(values | weights).get(name) for name in names],
        attributes,
        domain=DOMAIN,
        outputs=[y],
        name="layer",
    )
    opsets = {"": OPSET, DOMAIN: DOMAIN_VERSION}
    graph = ir.Graph([*values.values()], [y], nodes=[node], name="g", opset_imports=opsets)
    for value in weights.values():
        graph.register_initializer(value)
    model = ir.Model(graph, ir_version=IR_VERSION)
    set_bodies(model, backend)
    return model


def float_inputs(case: MoeCase) -> dict[str, Array]:
    return {name: np.float32(value) for name, value in moe_weights(case).items()}


def fp8_inputs(case: MoeCase) -> dict[str, Array]:
    """FP8 weights with one scale an expert, and the shared expert's behind them."""
    inputs, fp8 = float_inputs(case), ir.DataType.FLOAT8E4M3FN.numpy()
    for name in ("gate_up", "down"):
        scale = np.abs(inputs[f"w_{name}"]).max(axis=(1, 2)) / 448
        inputs[f"w_{name}"] = (inputs[f"w_{name}"] / scale[:, None, None]).astype(fp8)
        if case.shared_width:
            shared = np.abs(inputs[f"shared_{name}"]).max() / 448
            inputs[f"shared_{name}"] = (inputs[f"shared_{name}"] / shared).astype(fp8)
            scale = np.append(scale, shared)
        inputs[f"{name}_scale"] = np.float32(scale)
    return inputs | {"x_scale": np.float32(5 / 448), "mid_scale": np.float32(16 / 448)}


def block_inputs(case: MoeCase) -> dict[str, Array]:
    """FP8 bytes and block scales, as an export has them."""
    inputs, random = float_inputs(case), np.random.default_rng(4)
    for name in ("gate_up", "down"):
        shape = inputs[f"w_{name}"].shape
        inputs[f"w_{name}"] = random.integers(0, 0x70, shape, np.uint8)
        blocks = (shape[0], 2 if name == "gate_up" else 1, 1)
        inputs[f"{name}_scale"] = np.float32(random.uniform(0.001, 0.01, blocks))
    return inputs


def outputs(case: MoeCase, inputs: dict[str, Array], parts: int, backend: LoweringBackend) -> Array:
    x = np.random.default_rng(3).standard_normal((3, 40, case.hidden))
    feeds = {"x": np.float32(x), "seq_len": np.array([40, 7, 0])}
    (y,) = session_of(model_of(case, inputs, parts, backend)).run(None, feeds)
    assert np.abs(y[0]).min() > 0
    return y


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_result_does_not_depend_on_the_parts(case: MoeCase, backend: LoweringBackend) -> None:
    kinds = [float_inputs, block_inputs if backend == "onnxruntime" else fp8_inputs]
    for inputs in (kind(case) for kind in kinds):
        whole = outputs(case, inputs, 1, backend)
        for parts in (2, 3, case.experts):
            np.testing.assert_array_equal(outputs(case, inputs, parts, backend), whole)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_calibration_measures_the_experts_of_every_part(case: MoeCase) -> None:
    """The largest magnitude inside the experts, read out by the function that calibration calls."""
    found = []
    for parts in (1, 3):
        model = model_of(case, float_inputs(case), parts, "onnxruntime")
        (node,) = model.graph
        spec = DYNAMIC_MOE.spec_from_node(node)
        function = mid_statistic_function(spec, Statistic(amax=True, size=1), "")
        model.functions[function.identifier()] = function
        scales = ir.Value(name="scales", const_value=ir.tensor(np.ones(1, np.float32), name="scales"))
        model.graph.register_initializer(scales)
        names = [DYNAMIC_MOE.input(node, name) for name in mid_inputs(spec)]
        amax = ir.Value(name="amax", type=ir.TensorType(FLOAT), shape=ir.Shape([1]))
        model.graph.append(ir.node(function.name, [*names, scales], domain=DOMAIN, outputs=[amax]))
        model.graph.outputs.append(amax)
        x = np.random.default_rng(3).standard_normal((3, 40, case.hidden))
        feeds = {"x": np.float32(x), "seq_len": np.array([40, 7, 0])}
        found.append(float(session_of(model).run(["amax"], feeds)[0][0]))
    assert found[0] == found[1] > 0.1


@pytest.mark.parametrize(
    ("experts", "elements", "limit", "parts"),
    [
        (256, 2 * 2048 * 7168, 2**31 - 1, 4),
        (64, 2 * 1408 * 2048, 2**31 - 1, 1),
        (8, 10, 80, 1),
        (8, 10, 79, 2),
        (7, 10, 30, 3),
        (3, 10, 5, 3),
    ],
)
def test_no_more_parts_than_needed(experts: int, elements: int, limit: int, parts: int) -> None:
    """DeepSeek-R1's experts come in 4 parts of 64, V2-Lite's in one."""
    assert fewest_parts(experts, elements, limit) == parts
    sizes = [part.count for part in expert_parts(experts, parts)]
    assert sum(sizes) == experts and max(sizes) - min(sizes) <= 1 and sizes == sorted(sizes, reverse=True)


def test_a_part_with_other_experts_is_refused() -> None:
    case = MOE_CASES[0]
    model = model_of(case, float_inputs(case), 3, "onnxruntime")
    (node,) = model.graph
    DYNAMIC_MOE.set_input(node, "w_down.2", DYNAMIC_MOE.input(node, "w_down.1"))
    with pytest.raises(ExportError, match="does not hold the experts of its part") as caught:
        DYNAMIC_MOE.spec_from_node(node)
    assert caught.value.details["found"] == "3 experts"
    DYNAMIC_MOE.set_input(node, "w_down.2", None)
    with pytest.raises(ExportError, match=r"static sizes of its input 'w_down.2'"):
        DYNAMIC_MOE.spec_from_node(node)


@pytest.mark.parametrize("parts", [0, -1, 9])
def test_an_impossible_number_of_parts_is_refused(parts: int) -> None:
    case = MOE_CASES[0]
    model = model_of(case, float_inputs(case), 1, "onnxruntime")
    (node,) = model.graph
    node.attributes["expert_parts"] = ir.AttrInt64("expert_parts", parts)
    with pytest.raises(ExportError, match="expert_parts"):
        DYNAMIC_MOE.spec_from_node(node)
