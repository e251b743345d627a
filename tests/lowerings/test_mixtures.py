"""Layers of one graph that differ in attributes: each gets a body of its own, and it is the right one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from lowerings.layer_mixtures import (
    EDITS,
    LAYERS,
    Edit,
    edit_nodes,
    edited_reference,
    logits_of,
    relative_error,
    session_of,
    six_layers,
)

from r1trt.errors import ExportError
from r1trt.export.io import ExportedModel
from r1trt.lowerings.bodies import LoweringBackend, set_bodies
from r1trt.lowerings.builder import operator_function
from r1trt.lowerings.tensorrt_rtx.rope import rope_body
from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.ops.dynamic_rope import DYNAMIC_ROPE
from r1trt.ops.hla_attention import HLA_ATTENTION
from r1trt.ops.registry import OPERATORS
from r1trt.passes.check_onnx import CheckOnnxPass
from r1trt.passes.inline_bodies import InlineBodiesPass
from r1trt.passes.pipeline import run_passes
from r1trt.passes.set_bodies import DropBodiesPass

BACKENDS: tuple[LoweringBackend, ...] = ("onnxruntime", "tensorrt-rtx")
# FP32 against FP64; one layer with another layer's attribute changes the logits by percents.
TOLERANCE, NOTICED = 1e-4, 1e-2
PROMPT = np.random.default_rng(7).integers(2, 300, 21).tolist()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    return six_layers(tmp_path_factory.mktemp("six"))


def edited(exported: ExportedModel, backend: LoweringBackend) -> ir.Model:
    model = exported.model.clone()
    edit_nodes(model)
    set_bodies(model, backend)
    return model


def without(layer: int, attribute: str) -> tuple[Edit, ...]:
    """The edits, but that one attribute of one layer is forgotten."""
    kept = {name: getattr(EDITS[layer], name) for name in Edit.__annotations__ if name != attribute}
    return (*EDITS[:layer], Edit(**kept), *EDITS[layer + 1 :])


FORGOTTEN = [
    (layer, name)
    for layer, edit in enumerate(EDITS)
    for name in Edit.__annotations__
    if getattr(edit, name) != getattr(Edit(), name)
]


@pytest.mark.parametrize("backend", BACKENDS)
def test_edited_attributes_count_layer_by_layer(exported: ExportedModel, backend: LoweringBackend) -> None:
    model = edited(exported, backend)
    CheckOnnxPass()(model)
    found = logits_of(session_of(model, exported.weight_base), PROMPT)
    checkpoint = exported.path.parent / "checkpoint"
    assert relative_error(found, edited_reference(checkpoint).logits(PROMPT)) < TOLERANCE


@pytest.mark.parametrize(("layer", "attribute"), FORGOTTEN)
def test_the_comparison_notices_a_forgotten_attribute(
    exported: ExportedModel, layer: int, attribute: str
) -> None:
    checkpoint = exported.path.parent / "checkpoint"
    whole = edited_reference(checkpoint).logits(PROMPT)
    forgetful = edited_reference(checkpoint, without(layer, attribute)).logits(PROMPT)
    assert relative_error(forgetful, whole) > NOTICED


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_comparison_notices_bodies_of_the_first_layer(
    exported: ExportedModel, backend: LoweringBackend
) -> None:
    model = edited(exported, backend)
    for node in model.graph:
        node.overload = ""
    found = logits_of(session_of(model, exported.weight_base), PROMPT)
    checkpoint = exported.path.parent / "checkpoint"
    assert relative_error(found, edited_reference(checkpoint).logits(PROMPT)) > NOTICED


@pytest.mark.parametrize("backend", BACKENDS)
def test_inlined_bodies_compute_the_same(exported: ExportedModel, backend: LoweringBackend) -> None:
    model = edited(exported, backend)
    called = logits_of(session_of(model, exported.weight_base), PROMPT)
    inlined = logits_of(session_of(run_passes(model, [InlineBodiesPass()]), exported.weight_base), PROMPT)
    np.testing.assert_allclose(inlined, called, atol=1e-5)


def overloads(model: ir.Model, op_type: str) -> list[str]:
    return [node.overload for node in model.graph if node.op_type == op_type]


def test_equal_specs_share_a_body(exported: ExportedModel) -> None:
    model = edited(exported, "onnxruntime")
    assert overloads(model, DYNAMIC_MOE.name) == ["", "2", "", "", "3", ""]
    assert overloads(model, HLA_ATTENTION.name) == ["", "", "2", "3", "4", ""]
    assert overloads(model, DYNAMIC_ROPE.name) == [""] * LAYERS
    own = [key for key in model.functions if key[1] in OPERATORS]
    assert len(own) == 3 + 4 + 1


def test_an_unedited_graph_is_what_the_export_wrote(exported: ExportedModel) -> None:
    model = exported.model.clone()
    edit_nodes(model)
    set_bodies(model, "onnxruntime")
    edit_nodes(model, (Edit(),) * LAYERS)
    set_bodies(model, "onnxruntime")
    again = {key: ir.to_proto(body) for key, body in model.functions.items()}
    written = {key: ir.to_proto(body) for key, body in exported.model.functions.items()}
    assert again == written
    assert all(node.overload == "" for node in model.graph)


def names_in(body: ir.Function) -> set[str]:
    nodes = list(body.all_nodes())
    values = [value for node in nodes for value in node.outputs]
    for node in nodes:
        graphs = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
        values += [value for graph in graphs for value in graph.inputs]
    return {str(node.name) for node in nodes} | {str(value.name) for value in values if value.name}


@pytest.mark.parametrize("backend", BACKENDS)
def test_bodies_share_no_name(exported: ExportedModel, backend: LoweringBackend) -> None:
    seen: set[str] = set()
    for body in edited(exported, backend).functions.values():
        names = names_in(body)
        assert not names & seen, sorted(names & seen)[:5]
        seen |= names


def test_overloads_survive_a_file(exported: ExportedModel, tmp_path: Path) -> None:
    model = edited(exported, "onnxruntime")
    ir.save(model, tmp_path / "model.onnx")
    read = ir.load(tmp_path / "model.onnx")
    assert overloads(read, HLA_ATTENTION.name) == overloads(model, HLA_ATTENTION.name)
    assert set(read.functions) == set(model.functions)


def test_types_without_a_body_are_refused_or_left_to_the_next_backend(exported: ExportedModel) -> None:
    model = exported.model.clone()
    (node,) = [node for node in model.graph if node.name == "model.layers.1.self_attn.rope"]
    rows = DYNAMIC_ROPE.input(node, "q")
    assert rows is not None
    rows.type = ir.TensorType(ir.DataType.BFLOAT16)
    with pytest.raises(ExportError, match="No body of R1DynamicRoPE computes in the types"):
        set_bodies(model, "onnxruntime")
    set_bodies(model, "onnxruntime", "tensorrt-rtx")
    assert overloads(model, DYNAMIC_ROPE.name) == ["", "2", "", "", "", ""]
    own = operator_function(DYNAMIC_ROPE, rope_body(DYNAMIC_ROPE.spec_from_node(node)), "2")
    assert ir.to_proto(model.functions[own.identifier()]) == ir.to_proto(own)


def test_plugins_take_no_overloads(exported: ExportedModel) -> None:
    model = run_passes(edited(exported, "onnxruntime"), [DropBodiesPass()])
    assert not model.functions and not any(node.overload for node in model.graph)
