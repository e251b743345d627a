"""Bytes of weights and caches against the graphs that a build makes of the same model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from tiny_checkpoints import r1_asa_raw_config, write_deepseek, write_llama, write_qwen2, write_r1_asa

from r1trt.arch import BuildPrecision
from r1trt.build.config import BuildConfig
from r1trt.build.graphs import graphs_from_plan
from r1trt.build.target import limits_from_config, target_from_config
from r1trt.build.write_typed import weight_bytes
from r1trt.data_types import OF_ONNX
from r1trt.estimate.kv_cache import decompressed_elements
from r1trt.estimate.planned import PlannedModel, planned_model
from r1trt.estimate.sample import sample_of_model
from r1trt.estimate.source import sized_model, sized_model_from_config
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.export.io import load_export
from r1trt.ops.cost import CallSize
from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.ops.moe_typing import expected_scales
from r1trt.ops.registry import operator_of_layer
from r1trt.precision.checks import layer_nodes
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.rules import plan_from_rules

CAPACITY = 64
TARGETS: list[tuple[str, BuildPrecision]] = [
    *(("cpu", "fp32"), ("cpu", "int8"), ("cpu", "int4")),
    *(("ada", "bf16"), ("ada", "fp8")),
]
WRITERS: dict[str, Callable[[Path], Path]] = {
    "llama": write_llama,
    "tied": lambda path: write_llama(path, tie_word_embeddings=True),
    "qwen2": write_qwen2,
    "deepseek_v3": write_deepseek,
    "mixed layers": lambda path: write_r1_asa(
        path,
        num_hidden_layers=4,
        first_k_dense_replace=1,
        intermediate_size=96,
        num_shared_experts=1,
        shared_intermediate_size=16,
        scoring="sigmoid",
    ),
}


def any_scales(plan: PrecisionPlan, model: ir.Model) -> PrecisionPlan:
    """A plan whose scales are 1: one a tensor, and of experts one each."""
    nodes, layers = layer_nodes(model), {}
    for name, layer in plan.layers.items():
        one: Any = 1.0
        if layer.op == DYNAMIC_MOE.name:
            one = (1.0,) * expected_scales(DYNAMIC_MOE, nodes[name])
        operator = operator_of_layer(layer)
        scales: dict[str, Any] = dict.fromkeys(operator.missing_input_scales(layer), 1.0)
        scales |= dict.fromkeys(operator.missing_weight_scales(layer), one)
        if isinstance(scales.get("weight_scale"), tuple):
            scales["weight_axis"] = 0
        layers[name] = replace(layer, **scales)
    return replace(plan, layers=layers)


@pytest.mark.parametrize(("arch", "precision"), TARGETS)
@pytest.mark.parametrize("family", WRITERS)
def test_bytes_are_those_of_the_built_graph(
    family: str, arch: str, precision: BuildPrecision, tmp_path: Path
) -> None:
    checkpoint = WRITERS[family](tmp_path / "model")
    export = load_export(
        export_checkpoint(
            ExportConfig(checkpoint=checkpoint, output=tmp_path / "export", max_seq_len=CAPACITY)
        )
    )
    config = BuildConfig(arch=arch, precision=precision)
    target = target_from_config(config)
    plan = any_scales(plan_from_rules(export.model, arch, precision), export.model)
    graph = graphs_from_plan(export.model, plan, target, limits_from_config(config, export)).engine
    planned = planned_model(sized_model(str(checkpoint)), arch, precision, CAPACITY)
    # The built graph has small constants besides: shapes, axes, indices, angles of the rotation.
    assert planned.bytes == pytest.approx(weight_bytes(graph), rel=0.02, abs=5000)
    assert planned.kv_cache.bytes(3, CAPACITY) == cache_bytes(graph, batch=3)


def cache_bytes(graph: ir.Model, *, batch: int) -> int:
    total = 0
    for value in graph.graph.inputs:
        if "cache" in str(value.name):
            assert value.shape is not None and value.dtype is not None
            sizes = [size if isinstance(size, int) else batch for size in value.shape]
            total += math.prod(sizes) * OF_ONNX[value.dtype].bytes
    return total


def planned(raw: dict[str, Any], precision: BuildPrecision = "bf16") -> PlannedModel:
    model = sized_model_from_config("model", raw, where=Path("config.json"))
    return planned_model(model, "ada", precision, CAPACITY)


def test_equal_layers_are_computed_once() -> None:
    raw = r1_asa_raw_config(num_hidden_layers=9, first_k_dense_replace=3, intermediate_size=96)
    model = sized_model_from_config("model", raw, where=Path("config.json"))
    sample = sample_of_model(model, CAPACITY)
    assert sample.layers == ((0, 1, 2), (3, 4, 5, 6, 7, 8))
    assert sample.real_names("model.layers.0.mlp.act") == [
        f"model.layers.{layer}.mlp.act" for layer in range(3)
    ]
    assert sample.count("model.layers.0.self_attn.q_proj") == 3
    assert sample.count("model.layers.1.mlp.moe") == 6
    assert sample.count("lm_head") == sample.count(None) == 1


def test_layers_of_different_marks_are_told_apart() -> None:
    model = sized_model_from_config(
        "model", r1_asa_raw_config(num_hidden_layers=4), where=Path("config.json")
    )
    assert sample_of_model(model, CAPACITY, marks="abab").layers == ((0, 2), (1, 3))


def test_bytes_grow_with_the_layers() -> None:
    one, three = (planned(r1_asa_raw_config(num_hidden_layers=layers)) for layers in (1, 3))
    layer = sum(value for name, value in one.weight_bytes.items() if name in ("bf16", "fp32"))
    ends = 2 * 320 * 64 * 2 + 64 * 4 + 8 * 4  # embedding, head, norm, frequencies
    assert sum(three.weight_bytes.values()) - ends == pytest.approx(3 * (layer - ends), rel=1e-3)
    assert three.kv_cache.token_bytes == 3 * one.kv_cache.token_bytes


def test_cache_of_grouped_queries_by_hand() -> None:
    found = planned(r1_asa_raw_config()).kv_cache
    # Two layers, keys and values, two heads of 16, two bytes an element.
    assert found.token_bytes == found.decompressed_token_bytes == 2 * 2 * 2 * 16 * 2
    assert decompressed_elements(sized_model("r1-distill-qwen-7b").config.layers[0].attention) == 2 * 4 * 128


def test_cache_of_latents_by_hand() -> None:
    found = planned_model(sized_model("r1-671b"), "hopper", "bf16", 4096).kv_cache
    assert found.token_bytes == 61 * (512 + 64) * 2
    assert found.decompressed_token_bytes == 61 * 128 * (128 + 64 + 128) * 2


def test_activations_are_those_of_the_largest_layer() -> None:
    found = planned(r1_asa_raw_config()).activation_bytes(CallSize(batch=2, tokens=8))
    # The head: 64 in and 320 logits out for each of 16 tokens, in BF16.
    assert found == 16 * (64 + 320) * 2
