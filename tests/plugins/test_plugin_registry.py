"""The plugin library in plugin registries: TensorRT-RTX's own, and stand-ins of TensorRT 10 and 11."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from harness.compile import harness_library, host_plugin_library

from r1trt.ops.operator import DOMAIN, DOMAIN_VERSION, IR_VERSION, OPSET
from r1trt.ops.registry import OPERATORS
from r1trt.plugin_checks.harness.driver import BF16, FLOAT, FP8, INT64, TENSORRT_10, TENSORRT_11
from r1trt.plugin_checks.harness.layers import LAYERS, Layer

INTERFACES = [["PLUGIN", 1], ["PLUGIN_V3ONE_CORE", 1], ["PLUGIN_V3ONE_BUILD", 2], ["PLUGIN_V3ONE_RUNTIME", 1]]
HARNESS = Path(__file__).parent / "harness"
ONNX_TYPES = {
    FLOAT: onnx.TensorProto.FLOAT,
    BF16: onnx.TensorProto.BFLOAT16,
    FP8: onnx.TensorProto.FLOAT8E4M3FN,
    INT64: onnx.TensorProto.INT64,
}


def run_child(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    paths = [str(HARNESS.parent), str(HARNESS.parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, program if program == "-c" else str(HARNESS / program), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def findings(child: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in child.stdout.splitlines() if line.startswith("{")]


@pytest.mark.parametrize(
    ("version", "expected"),
    [(TENSORRT_10, list(OPERATORS)), (TENSORRT_11, list(OPERATORS)), (100000, list(OPERATORS)), (80600, [])],
)
def test_registration_by_dlopen(version: int, expected: list[str], tmp_path: Path) -> None:
    copy = shutil.copy(host_plugin_library(), tmp_path / "copy.so")
    child = run_child("register_child.py", harness_library(), host_plugin_library(), copy, version)
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout) == [expected, expected, []]


def test_no_registration_while_the_registry_loads_the_library() -> None:
    """The harness opens the library itself, and so is on the call stack as TensorRT is in loadLibrary."""
    program = f"""
from pathlib import Path
from r1trt.plugin_checks.harness.driver import Harness
harness = Harness(Path({str(harness_library())!r}), symbols_are_global=True)
harness.open(Path({str(host_plugin_library())!r}))
print(harness.library.harness_registrations())
"""
    assert run_child("-c", program).stdout == "0\n"


def test_no_registration_without_a_registry() -> None:
    script = f"import ctypes; ctypes.CDLL({str(host_plugin_library())!r}); print('loaded')"
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (child.returncode, child.stdout, child.stderr) == (0, "loaded\n", "")


@pytest.mark.parametrize("way", ["load", "global load", "dlopen", "dlopen then load"])
def test_tensorrt_rtx_lists_the_plugins(way: str) -> None:
    child = run_child("rtx_child.py", way, host_plugin_library())
    assert child.returncode == 0, child.stderr
    assert all(item["loaded"] for item in findings(child) if "loaded" in item), child.stdout
    found = [item for item in findings(child) if "creator" in item]
    assert sorted(item["creator"] for item in found) == sorted(OPERATORS)
    for item in found:
        name = item["creator"]
        attributes = OPERATORS[name].attributes
        types = {key: "FLOAT32" if isinstance(value, float) else "INT32" for key, value in attributes.items()}
        assert item["fields"] == {**types, "input_mask": "INT32"}
        assert item["interface"] == ["PLUGIN CREATOR_V3ONE", 1]
        assert item["plugin"] == [name, "1", "r1trt"]
        assert item["interfaces"] == INTERFACES
        assert item["outputs"] == len(OPERATORS[name].outputs)
        assert item["timing_cache_id"].startswith(f"{name} 1 ")


def test_errors_reach_tensorrt_rtxs_logger() -> None:
    child = run_child("rtx_child.py", "load", host_plugin_library())
    items = findings(child)
    assert {"refused": True} in items
    [message] = [item["message"] for item in items if item.get("severity") == "ERROR"]
    assert (
        "R1DynamicMoE layer 'layers.7': createPlugin: attribute 'top_k' is 99; from 1 to 8 expected"
        in message
    )


def model_of(layer: Layer) -> onnx.ModelProto:
    """A graph with the layer as its only node, its plugin's fields as attributes."""
    inputs = [
        onnx.helper.make_tensor_value_info(name, ONNX_TYPES[tensor.type], tensor.dims)
        for name, tensor in zip(layer.names, layer.tensors, strict=True)
    ]
    outputs = [
        onnx.helper.make_tensor_value_info(f"out{i}", ONNX_TYPES[tensor.type], tensor.dims)
        for i, tensor in enumerate(layer.outputs)
    ]
    attributes = {**layer.attributes, "input_mask": layer.mask}
    node = onnx.helper.make_node(
        layer.operator, layer.names, [item.name for item in outputs], name="model.layers.0.op", domain=DOMAIN,
        **attributes,
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    graph = onnx.helper.make_graph([node], "layer", inputs, outputs)
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


@pytest.mark.parametrize("name", LAYERS)
def test_the_onnx_parser_makes_the_plugin(name: str, tmp_path: Path) -> None:
    """The attributes are read back from what the plugin itself logs when it is made.

    TensorRT-RTX takes no plugin in a network: its parser ends the process right after it made one.
    """
    layer = LAYERS[name]
    model = tmp_path / "model.onnx"
    onnx.save(model_of(layer), model)
    child = run_child("rtx_child.py", "parse", host_plugin_library(), model)
    assert child.returncode == -signal.SIGABRT, child.stderr
    messages = [item["message"] for item in findings(child) if "message" in item]
    assert any(f"Successfully created plugin: {layer.operator}" in message for message in messages)
    [made] = [message for message in messages if "createPlugin: " in message]
    values = dict(item.split("=") for item in made.partition("createPlugin: ")[2].split())
    expected = {**layer.attributes, "input_mask": layer.mask}
    assert {key: float(value) for key, value in values.items()} == expected
    assert f"{layer.operator} layer 'model.layers.0.op'" in made


def test_the_onnx_parser_reports_a_bad_attribute(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    onnx.save(model_of(LAYERS["moe"].with_attributes(top_k=9)), model)
    child = run_child("rtx_child.py", "parse", host_plugin_library(), model)
    messages = [item["message"] for item in findings(child) if item.get("severity") == "ERROR"]
    assert any("attribute 'top_k' is 9; from 1 to 8 expected" in message for message in messages)
    assert [item["parsed"] for item in findings(child) if "parsed" in item] == [False]
