"""A model in pieces computes what it computes as a whole, in every type."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from search_case import CAPACITY, Case

from r1trt.arch import architecture
from r1trt.build.graphs import graphs_from_plan
from r1trt.build.profile import BuildLimits
from r1trt.build.target import BuildTarget
from r1trt.errors import ExportError
from r1trt.graph.segments import segments_of_model
from r1trt.passes.pipeline import run_passes, scoring_passes
from r1trt.runtime.graph_session import session_from_export
from r1trt.runtime.onnxruntime_session import OnnxRuntimeSession

IDS = np.random.default_rng(3).integers(2, 300, 40)


def chain_logits(case: Case, kind: str | None) -> np.ndarray:
    plan = case.exact if kind is None else case.plans[kind]
    (state,) = case.chain.hidden_states(plan, [IDS], "a test")
    return case.chain.session(case.chain.head, plan)(state)[0]


def test_pieces_are_layers(case: Case) -> None:
    names = [segment.name for segment in case.chain.segments]
    assert names == ["embedding", "model.layers.0", "model.layers.1", "head"]
    planned = set().union(*(segment.layer_names() for segment in case.chain.segments))
    assert set(case.exact.layers) <= planned


def test_in_fp32_they_are_the_export(case: Case) -> None:
    session = session_from_export(case.export.artifact)
    session.reset(1)
    whole = session.step(IDS[None], np.array([len(IDS)]), np.array([0]))[0]
    session.close()
    np.testing.assert_allclose(chain_logits(case, None), whole, atol=2e-6)


@pytest.mark.parametrize("kind", ["bf16", "int8 weights", "fp8", "fp8 by row"])
def test_in_other_types_they_are_the_builds_simulation(case: Case, kind: str) -> None:
    plan = case.plans[kind]
    target = BuildTarget(arch=architecture("ada"), precision="fp8", backend="tensorrt-rtx", sms=(89,))
    limits = BuildLimits(max_batch_size=1, max_input_len=CAPACITY, capacity=None)
    graphs = graphs_from_plan(case.export.model, plan, target, limits)
    assert graphs.simulated is not None
    proto = ir.to_proto(graphs.simulated).SerializeToString()
    session = OnnxRuntimeSession(proto, weight_base=case.export.weight_base)
    session.reset(1)
    whole = session.step(IDS[None], np.array([len(IDS)]), np.array([0]))[0]
    session.close()
    np.testing.assert_allclose(chain_logits(case, kind), whole, atol=1e-5)


def test_logits_of_the_last_token_alone_are_refused(case: Case) -> None:
    model = run_passes(case.export.model, scoring_passes())
    model.graph.outputs[0].shape = ir.Shape(["B", 320])
    with pytest.raises(ExportError, match="last token alone"):
        segments_of_model(model)


def test_a_graph_of_other_names_is_refused(case: Case) -> None:
    model = run_passes(case.export.model, scoring_passes())
    for node in model.graph:
        node.name = str(node.name).replace("mlp_residual", "sum")
    with pytest.raises(ExportError, match="cannot be cut"):
        segments_of_model(model)
