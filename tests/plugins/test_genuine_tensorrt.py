"""The plugin library in the registry of the real TensorRT 11.4, asked through NVIDIA's own bindings.

Of a plugin in C++ those bindings ask names, versions, interfaces, the number of outputs, formats, metadata
and the timing cache's key. Output types, format combinations, workspace, aliases and serialization are there
for plugins in Python only ("not available to be called from Python on C++-based plugins", says their help);
`test_plugin_methods.py` calls them as a builder does.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from harness.compile import host_plugin_library
from test_plugin_registry import INTERFACES, findings, run_child

from r1trt.ops.registry import OPERATORS
from r1trt.passes.name_absent_inputs import INPUT_MASK
from r1trt.plugin_checks.harness.layers import HOST_SMS, LAYERS, NUM_SMS, WORKSPACE_UNITS


def conversation(way: str, layers: list[Any]) -> list[dict[str, Any]]:
    child = run_child("lean_child.py", way, host_plugin_library(), json.dumps(layers))
    assert child.returncode == 0, child.stderr
    return findings(child)


@pytest.mark.parametrize("way", ["load", "dlopen"])
def test_the_registry_lists_the_plugins(way: str) -> None:
    items = conversation(way, [])
    assert items[0] == {"tensorrt": 110400}
    assert all(item["loaded"] for item in items if "loaded" in item)
    assert {"refused": True} in items
    creators = {item["creator"]: item for item in items if "creator" in item}
    assert set(creators) == set(OPERATORS)
    for name, item in creators.items():
        attributes = OPERATORS[name].attributes
        types = {key: "FLOAT32" if isinstance(value, float) else "INT32" for key, value in attributes.items()}
        assert item["fields"] == {**types, INPUT_MASK: "INT32"}
        assert item["interface"] == ["PLUGIN CREATOR_V3ONE", 1]
        assert item["interfaces"] == INTERFACES
        assert item["plugin"] == [name, "1", "r1trt"]
        assert item["outputs"] == len(OPERATORS[name].outputs)


def test_plugins_are_made_of_a_graphs_fields_and_of_an_engines() -> None:
    asked, engines = [], {NUM_SMS: HOST_SMS, WORKSPACE_UNITS: 4}
    for layer in LAYERS.values():
        fields = {**layer.attributes, INPUT_MASK: layer.mask}
        asked += [(layer.operator, fields, "BUILD"), (layer.operator, {**fields, **engines}, "RUNTIME")]
    made = [item for item in conversation("load", [list(item) for item in asked]) if "layer" in item]
    assert len(made) == len(asked)
    for (operator, fields, phase), item in zip(asked, made, strict=True):
        assert (item["layer"], item["phase"]) == (operator, phase)
        facts = item["facts"]
        assert facts is not None, f"{operator} in {phase} was refused"
        assert facts["interfaces"] == INTERFACES and facts["plugin"] == [operator, "1", "r1trt"]
        found = dict(text.split("=") for text in facts["metadata"].split())
        assert {name: float(value) for name, value in found.items() if name in fields} == {
            name: pytest.approx(value) for name, value in fields.items() if name in found
        }
        assert set(OPERATORS[operator].attributes) <= set(found)
        outputs = next(len(layer.outputs) for layer in LAYERS.values() if layer.operator == operator)
        assert facts["outputs"] == outputs or operator == "R1HLAAttention"
