"""A network is compared with plans that it obeys and plans that it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from r1trt.build.child import BuildRequest, build_in_child
from r1trt.build.config import BuildConfig
from r1trt.build.network_check import check_network, require_obeyed
from r1trt.build.pipeline import build_engine
from r1trt.build.read_back import node_of_metadata
from r1trt.errors import BuildError
from r1trt.graph.network_view import plan_key
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.plan_file import load_plan


class Stop(Exception):
    """The network has been read; no engine is needed."""


@pytest.fixture(scope="module")
def fp8_network(
    r1_asa_export: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[dict[str, Any]], PrecisionPlan]:
    """The parsed network of an FP8 build, and its plan."""
    output = tmp_path_factory.mktemp("network") / "engine"
    build_engine(BuildConfig(model=r1_asa_export, arch="ada", precision="fp8", output=output))
    layers: list[dict[str, Any]] = []

    def keep(found: list[dict[str, Any]]) -> None:
        layers.extend(found)
        raise Stop

    request = BuildRequest(
        backend="tensorrt-rtx", directory=output, graph=output / "typed.onnx", engines={89: "again.plan"}
    )
    with pytest.raises(Stop):
        build_in_child(request, on_network=keep)
    return layers, load_plan(output / "precision.yaml")


def asked(plan: PrecisionPlan, name: str, **types: Any) -> PrecisionPlan:
    """The plan with one layer asked for differently."""
    dropped = {"input_scale": None, "weight_scale": None, "weight_axis": None, "mid_scale": None}
    scales = dropped | {"down_scale": None} if types.get("input") != "fp8_e4m3" else {}
    if plan.layers[name].shared_weight is not None:
        scales["shared_weight"] = types.get("weight")
    return replace(plan, layers={**plan.layers, name: replace(plan.layers[name], **scales, **types)})


@pytest.mark.parametrize(
    ("name", "types", "says"),
    [
        (
            "model.layers.0.self_attn.o_proj",
            {"input": "bf16", "weight": "bf16"},
            "input asked bf16, found fp8_e4m3",
        ),
        (
            "model.layers.1.mlp.moe",
            {"input": "bf16", "weight": "bf16"},
            "weight asked bf16, found fp8_e4m3",
        ),
        ("lm_head", {"input": "fp32", "weight": "fp32", "output": "fp32"}, "output asked fp32, found bf16"),
        ("model.layers.0.attn_residual", {"input": "fp32", "output": "fp32"}, "asked fp32, found bf16"),
        ("model.embed_tokens", {"input": "int64", "weight": "fp32"}, "weight asked fp32, found bf16"),
        (
            "model.layers.0.self_attn.attention",
            {"input": "fp32", "output": "fp32"},
            "cache asked fp32, found bf16",
        ),
        (
            "model.layers.0.self_attn.rope",
            {"input": "fp32", "output": "fp32"},
            "output asked fp32, found bf16",
        ),
    ],
)
def test_a_disobeyed_layer_fails_the_build(
    fp8_network: tuple[list[dict[str, Any]], PrecisionPlan], name: str, types: dict[str, str], says: str
) -> None:
    layers, plan = fp8_network
    require_obeyed(check_network(layers, plan))
    report = check_network(layers, asked(plan, name, **types))
    assert report.count("disobeyed") == 1
    with pytest.raises(BuildError, match=f"1 of {len(plan.layers)} layers") as caught:
        require_obeyed(report)
    assert name in caught.value.details["found"]
    assert says in caught.value.details["found"]


def retyped(layers: list[dict[str, Any]], node: str, dtype: str) -> list[dict[str, Any]]:
    """The network as a builder would have made it that computes one node in another type."""
    return [
        {**layer, **{side: [[n, dtype] for n, _ in layer[side]] for side in ("inputs", "outputs")}}
        if layer["node"] == node
        else layer
        for layer in layers
    ]


@pytest.mark.parametrize(
    ("name", "type_", "part"),
    [
        ("model.layers.0.self_attn.lam_gate", "MATRIX_MULTIPLY", "product"),
        ("model.layers.0.mlp.moe", "MATRIX_MULTIPLY", "router"),
        ("model.norm", "REDUCE", "arithmetic"),
        ("model.layers.1.self_attn.rope", "ROTARY_EMBEDDING", "rotation"),
    ],
)
def test_what_must_be_fp32_is_checked(
    fp8_network: tuple[list[dict[str, Any]], PrecisionPlan], name: str, type_: str, part: str
) -> None:
    layers, plan = fp8_network
    node = next(
        layer["node"]
        for layer in layers
        if layer["type"] == type_ and plan_key(layer["node"], plan.layers) == name
    )
    report = check_network(retyped(layers, node, "BF16"), plan)
    (bad,) = [layer for layer in report.layers if layer.verdict == "disobeyed"]
    assert bad.name == name
    assert "bf16" in bad.found[part]


def test_a_layer_that_is_not_in_the_network_is_disobeyed(
    fp8_network: tuple[list[dict[str, Any]], PrecisionPlan],
) -> None:
    layers, plan = fp8_network
    without = [layer for layer in layers if not str(layer["node"]).startswith("lm_head")]
    with pytest.raises(BuildError) as caught:
        require_obeyed(check_network(without, plan))
    assert "lm_head (R1Linear): input asked bf16, found nothing" in caught.value.details["found"]


@pytest.mark.parametrize(
    ("metadata", "node"),
    [
        ("[ONNX Layer: model.norm/Cast]", "model.norm/Cast"),
        ("[ONNX Layer: F/MatMul_3 | model.layers.0.mlp.moe (R1DynamicMoE)]", "model.layers.0.mlp.moe"),
        ("[ONNX Layer: F/MatMul | inner (F) | outer (G)]", "outer"),
        ("", None),
    ],
)
def test_layers_lead_back_to_nodes(metadata: str, node: str | None) -> None:
    assert node_of_metadata(metadata) == node
