"""What becomes TensorRT's own layers, read by the parser of the TensorRT that is here, TensorRT-RTX's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx_ir as ir
import pytest

from r1trt.artifacts import BuildArtifact
from r1trt.build.builder_api import require_native_layers
from r1trt.build.child import BuildRequest, build_in_child
from r1trt.build.config import BuildConfig
from r1trt.build.network_check import NetworkReport, check_network, require_obeyed
from r1trt.build.pipeline import build_engine
from r1trt.build.plugins import BuildPlugins, plugins_of_unfinished
from r1trt.errors import BuildError, ConfigError, UnavailableError
from r1trt.ops.registry import OPERATORS
from r1trt.precision.implementations import plugin_layers
from r1trt.precision.plan_file import load_plan
from r1trt.runtime.graph_session import session_from_simulation


def unfinished(export: Path, output: Path, **options: Any) -> BuildArtifact:
    with pytest.raises(UnavailableError):
        build_engine(BuildConfig(model=export, arch="hopper", output=output, **options))
    return BuildArtifact.read(output)


def types_of(graph: Path) -> list[tuple[str, str]]:
    return [(node.op_type, str(node.name)) for node in ir.load(graph).graph.all_nodes()]


@pytest.mark.parametrize("precision", ["bf16", "fp8", "fp32"])
def test_a_dense_model_for_tensorrt_is_the_graph_that_tensorrt_rtx_gets(
    llama_export: Path, tmp_path: Path, precision: Any
) -> None:
    hopper = unfinished(llama_export, tmp_path / "hopper", precision=precision)
    config = BuildConfig(model=llama_export, arch="ada", precision=precision, output=tmp_path / "ada")
    ada = BuildArtifact.read(build_engine(config))
    assert types_of(hopper.typed_graph) == types_of(ada.typed_graph)
    assert not {kind for kind, _ in types_of(hopper.typed_graph)} & set(OPERATORS)
    assert hopper.manifest.plugins is None and not hopper.manifest.plugin_libraries
    assert not list(hopper.path.glob("*.so"))


def read_by_rtx(build: BuildArtifact) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = []
    request = BuildRequest(
        backend="tensorrt-rtx", directory=build.path, graph=build.typed_graph, engines={}, native_layers=True
    )
    build_in_child(request, on_network=layers.extend)
    return layers


@pytest.fixture(scope="module")
def hopper(llama_export: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildArtifact:
    return unfinished(llama_export, tmp_path_factory.mktemp("hopper") / "engine", precision="fp8")


def test_the_parsed_network_is_native_as_planned(hopper: BuildArtifact) -> None:
    layers, plan = read_by_rtx(hopper), load_plan(hopper.precision_plan)
    report = check_network(layers, plan)
    require_obeyed(report)
    assert report.summary()["native"] == 4 and report.summary()["plugin"] == 0
    kinds = [layer["type"] for layer in layers]
    assert kinds.count("KV_CACHE_UPDATE") == 4 and kinds.count("ROTARY_EMBEDDING") == 4
    name = "model.layers.1.self_attn.attention"
    other = replace(plan, layers={**plan.layers, name: replace(plan.layers[name], implementation="plugin")})
    with pytest.raises(BuildError, match="disobeys") as caught:
        require_obeyed(check_network(layers, other))
    assert (
        f"{name} (R1HLAAttention): implementation asked plugin, found native" in caught.value.details["found"]
    )


def test_a_plugin_in_place_of_a_native_layer_is_noticed(hopper: BuildArtifact) -> None:
    layers, plan = read_by_rtx(hopper), load_plan(hopper.precision_plan)
    name = "model.layers.0.self_attn.rope"
    rotated = next(layer for layer in layers if layer["node"] and layer["node"].startswith(f"{name}/"))
    as_plugin = [{**rotated, "type": "PLUGIN_V3", "outputs": [["q", "BF16"]]}]
    rest = [layer for layer in layers if not str(layer["node"]).startswith(name)]
    report: NetworkReport = check_network([*rest, *as_plugin], plan)
    (wrong,) = [layer for layer in report.layers if layer.verdict == "disobeyed"]
    assert (wrong.name, wrong.found["implementation"]) == (name, "plugin")
    assert (report.summary()["native"], report.summary()["plugin"]) == (3, 1)


def test_an_unfinished_build_says_that_it_needs_the_plugins(
    llama_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("R1TRT_CACHE", str(tmp_path / "empty"))
    for plugins, compiles in (("needed", False), ("all", True)):
        config = BuildConfig(model=llama_export, arch="hopper", plugins=plugins, output=tmp_path / plugins)  # type: ignore[arg-type]  # both are
        with pytest.raises(UnavailableError) as caught:
            build_engine(config)
        assert (
            "r1trt plugins build --arch hopper, then r1trt build" in caught.value.details["fix"]
        ) is compiles


def test_all_plugins_on_demand(llama_export: Path, tmp_path: Path) -> None:
    build = unfinished(llama_export, tmp_path / "engine", precision="bf16", plugins="all")
    kinds = [kind for kind, _ in types_of(build.typed_graph)]
    assert [kinds.count(name) for name in OPERATORS] == [2, 2, 0]
    assert not {"Attention", "RotaryEmbedding", "TensorScatter"} & set(kinds)
    assert len(plugin_layers(load_plan(build.precision_plan))) == 4


def test_a_mixture_has_both(r1_asa_export: Path, tmp_path: Path) -> None:
    plain = json.loads((r1_asa_export / "config.json").read_text())
    build = unfinished(r1_asa_export, tmp_path / "engine", precision="bf16")
    kinds = [kind for kind, _ in types_of(build.typed_graph)]
    assert plain["rope_temperature_alpha"] > 0  # so RoPE needs its plugin, too
    assert [kinds.count(name) for name in OPERATORS] == [2, 2, 2]


def test_the_simulations_of_native_layers_and_of_plugins_agree(llama_export: Path, tmp_path: Path) -> None:
    import numpy as np

    found = []
    for plugins in ("needed", "all"):
        build = unfinished(llama_export, tmp_path / plugins, precision="bf16", plugins=plugins)
        session = session_from_simulation(build)
        session.reset(1)
        ids = np.random.default_rng(0).integers(2, 300, (1, 12))
        found.append(session.step(ids, np.array([12]), np.array([0])))
        session.close()
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("options", [{"embed_plugins": True}, {"plugin_library": Path(__file__)}])
def test_plugins_for_a_network_without_any_are_refused(
    llama_export: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    config = BuildConfig(model=llama_export, arch="hopper", output=tmp_path / "engine", **options)
    with pytest.raises(ConfigError, match="No layer of this model becomes a plugin"):
        build_engine(config)


def test_a_build_without_plugins_is_finished_without_a_library(hopper: BuildArtifact) -> None:
    assert plugins_of_unfinished(BuildConfig(), hopper) == BuildPlugins()
    with pytest.raises(ConfigError, match="No layer of this model becomes a plugin"):
        plugins_of_unfinished(BuildConfig(embed_plugins=True), hopper)


@pytest.mark.parametrize(("arch", "backend"), [("ada", "tensorrt-rtx"), ("cpu", "onnxruntime")])
def test_other_builders_have_no_such_choice(
    llama_export: Path, tmp_path: Path, arch: str, backend: str
) -> None:
    config = BuildConfig(model=llama_export, arch=arch, plugins="needed", output=tmp_path / "engine")
    with pytest.raises(ConfigError, match="--plugins is for the builder tensorrt") as caught:
        build_engine(config)
    assert caught.value.details["found"] == f"--backend {backend}"


def test_an_older_tensorrt_is_told_what_it_lacks() -> None:
    definition = SimpleNamespace(add_attention=None)
    old = SimpleNamespace(INetworkDefinition=definition, __version__="10.14.1")
    with pytest.raises(BuildError, match="too old") as caught:
        require_native_layers(old)
    assert caught.value.details["found"] == (
        "TensorRT 10.14.1, without add_kv_cache_update, add_rotary_embedding"
    )
    assert "--plugins all" in caught.value.details["fix"]
