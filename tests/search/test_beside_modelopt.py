"""What plans are compared with: the graph that another quantizer gets, figures of logits from elsewhere."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from scripts_under_test import REPOSITORY
from search_case import CAPACITY, Case

from r1trt.evaluate.windows import windows_from_ids
from r1trt.export.io import load_export
from r1trt.precision.rules import plan_from_rules
from r1trt.runtime.onnxruntime_model import LoadOptions, inference_session
from r1trt.search.chain import ModelChain
from r1trt.search.damage import Damage
from r1trt.search.measure import Measurement
from r1trt.search.space import SearchSpace
from r1trt.search.times import CostModel, Workload, device_for_arch

IDS = np.random.default_rng(5).integers(2, 300, (2, 24))


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    yield {name: importlib.import_module(name) for name in ("modelopt_graph", "benchmark_modelopt")}
    sys.path.remove(str(REPOSITORY / "scripts"))


def test_the_graph_is_standard_and_the_model(
    llama_export: Path, scripts: dict[str, ModuleType], tmp_path: Path
) -> None:
    export = load_export(llama_export)
    path = scripts["modelopt_graph"].standard_graph(export, tmp_path / "graph.onnx")
    proto = onnx.load(path, load_external_data=False)
    assert {node.domain for node in proto.graph.node} == {""} and not proto.functions
    onnx.checker.check_model(path)
    session = inference_session(path, tmp_path, LoadOptions())
    logits_BSV = session.run(["logits"], {"input_ids": IDS, "seq_len": np.array([24, 24])})[0]
    exact = plan_from_rules(export.model, "ada", "fp32")
    chain = ModelChain(export.model, export.weight_base)
    head = chain.session(chain.head, exact)
    states = chain.hidden_states(exact, list(IDS), "a test")
    for logits_SV, state in zip(logits_BSV, states, strict=True):
        np.testing.assert_allclose(logits_SV, head(state)[0], atol=1e-5)


def test_quantized_products_are_those_whose_weight_is(scripts: dict[str, ModuleType]) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 21]>
        g (float[2, 4] x, float[4, 4] w, float s) => (float[2, 4] z) {
            q = QuantizeLinear <output_dtype = 17> (w, s)
            d = DequantizeLinear (q, s)
            [q_proj] y = MatMul (x, d)
            [k_proj] z = MatMul (y, w)
        }"""
    )
    assert scripts["modelopt_graph"].quantized_products(proto) == {"q_proj"}


def test_logits_from_elsewhere_are_measured_by_definition(case: Case) -> None:
    windows = windows_from_ids([list(map(int, row)) for row in IDS], size=CAPACITY, max_tokens=48)
    head = case.chain.session(case.chain.head, case.exact)
    states = case.chain.hidden_states(case.exact, [window.input_ids for window in windows], "a test")
    exact = [head(state)[0] for state in states]
    noise = np.random.default_rng(6)
    tested = [logits + noise.normal(0, 0.3, logits.shape).astype(np.float32) for logits in exact]
    measured = Measurement(case.chain, case.exact, windows, "a test").compare(tested)
    p_NV, q_NV = (
        (part := np.exp(np.concatenate(logits).astype(np.float64))) / part.sum(1, keepdims=True)
        for logits in (exact, tested)
    )
    assert measured.kl.mean == pytest.approx(float((p_NV * np.log(p_NV / q_NV)).sum(1).mean()), rel=1e-3)
    assert measured.tokens == 48


def test_least_damage_within_bytes_is_that_of_all_combinations(
    case: Case, scripts: dict[str, ModuleType]
) -> None:
    random = np.random.default_rng(7)
    groups = case.groups[:4]
    damages = {
        group.name: {choice.kind: Damage(kl=random.random(), error=0.0) for choice in group.choices[1:]}
        for group in groups
    }
    costs = CostModel(case.export.model, case.plans["bf16"], "bytes", device_for_arch("ada"), Workload())
    space = SearchSpace(base=case.plans["bf16"], groups=groups, damages=damages, costs=costs)
    options = space.options
    size = 0.75 * sum(option.costs[0] for option in options)
    fitting = [
        sum(option.damages[at] for option, at in zip(options, chosen, strict=True))
        for chosen in itertools.product(*(range(len(option.costs)) for option in options))
        if sum(option.costs[at] for option, at in zip(options, chosen, strict=True)) <= size
    ]
    found = scripts["benchmark_modelopt"].least_damage(space, size)
    assert found.damage == pytest.approx(min(fitting)) and found.cost <= size
