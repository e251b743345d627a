"""The workspace that an engine gives its layers, and libraries that need more."""

from __future__ import annotations

from dataclasses import replace

import pytest
from harness.compile import harness_library, host_plugin_library
from kernels.build import Change, build_plugin_library

from r1trt.plugin_checks.harness.driver import (
    TENSORRT_11,
    Harness,
    PluginLibraryUnderTest,
    PluginUnderTest,
    Tensor,
)
from r1trt.plugin_checks.harness.layers import (
    LAYERS,
    WORKSPACE_UNIT,
    WORKSPACE_UNITS,
    Layer,
    moe_layer,
)

# As a later version of the library may differ: more of its workspace is in use.
LARGER_ROWS = Change(
    file="dynamic_moe/dynamic_moe.cu",
    old="w.out = memory.take<char>(rows * p.hidden * 2);",
    new="w.out = memory.take<char>(rows * p.hidden * 4);",
    sources=("dynamic_moe/dynamic_moe.cu",),
)


@pytest.fixture(scope="module")
def library() -> PluginLibraryUnderTest:
    harness = Harness(harness_library())
    harness.set_version(TENSORRT_11)
    return harness.open(host_plugin_library())


@pytest.fixture(scope="module")
def needing_more(library: PluginLibraryUnderTest) -> PluginLibraryUnderTest:
    return library.harness.open(build_plugin_library(LARGER_ROWS))


def profile(low: Layer, high: Layer) -> tuple[list[Tensor], list[Tensor]]:
    """The layer's tensors from `low` to `high`."""

    def widened(item: Tensor, top: Tensor) -> Tensor:
        return replace(item, low=item.dims, high=top.dims)

    inputs = [widened(*pair) for pair in zip(low.tensors, high.tensors, strict=True)]
    return inputs, [widened(*pair) for pair in zip(low.outputs, high.outputs, strict=True)]


def configured(library: PluginLibraryUnderTest, *layers: Layer) -> PluginUnderTest:
    """A plugin as an engine holds it: configured for profiles that end with these layers."""
    plugin = library.create(layers[0].operator, layers[0].fields)
    assert plugin is not None
    for layer in layers:
        assert plugin.configure(*profile(layers[0], layer)), plugin.messages()
    return plugin


def recorded(plugin: PluginUnderTest) -> int:
    [value] = [field["value"] for field in plugin.serialize() if field["name"] == WORKSPACE_UNITS]
    return int(value) * WORKSPACE_UNIT


def takes(plugin: PluginUnderTest, layer: Layer) -> bool:
    return plugin.on_shape_change(layer.tensors, layer.outputs)


@pytest.mark.parametrize("name", LAYERS)
def test_what_was_asked_for_is_serialized(library: PluginLibraryUnderTest, name: str) -> None:
    layer = LAYERS[name]
    plugin = configured(library, layer)
    asked = plugin.workspace(layer.tensors, layer.outputs)
    assert asked <= recorded(plugin) < asked + WORKSPACE_UNIT
    for again in (library.restore(plugin), plugin.clone(), library.restore(plugin).attach()):
        assert recorded(again) == recorded(plugin)
        assert takes(again, layer), again.messages()


def test_the_largest_profile_counts(library: PluginLibraryUnderTest) -> None:
    small, large = moe_layer(batch=1, seq=1), moe_layer(batch=2, seq=33)
    for order in ((small, large), (large, small)):
        restored = library.restore(configured(library, *order))
        assert takes(restored, large), restored.messages()
        assert takes(restored, small), restored.messages()


def test_a_library_that_needs_more_is_refused(
    library: PluginLibraryUnderTest, needing_more: PluginLibraryUnderTest
) -> None:
    layer = moe_layer(batch=2, seq=33)
    plugin = configured(library, layer)
    running = needing_more.restore(plugin, layer="layers.7.op")
    assert running.workspace(layer.tensors, layer.outputs) > recorded(plugin)
    assert not takes(running, layer)
    text = running.messages()
    assert "R1DynamicMoE layer 'layers.7.op': onShapeChange: these shapes need " in text
    assert f"the library that built the engine asked for at most {recorded(plugin)}" in text
    pointers = [0] * len(layer.tensors)
    assert not running.enqueue(layer.tensors, layer.outputs, pointers, [0], workspace=256)
    # Less than the profile's largest shapes may need little enough.
    assert takes(running, moe_layer(batch=1, seq=1)), running.messages()


def test_a_library_that_needs_less_is_taken(
    library: PluginLibraryUnderTest, needing_more: PluginLibraryUnderTest
) -> None:
    layer = moe_layer(batch=2, seq=33)
    running = library.restore(configured(needing_more, layer))
    assert takes(running, layer), running.messages()


def test_shapes_beyond_the_profile_are_refused(library: PluginLibraryUnderTest) -> None:
    restored = library.restore(configured(library, moe_layer(batch=1, seq=1)))
    assert not takes(restored, moe_layer(batch=4, seq=33))
    assert "bytes of workspace" in restored.messages()


def test_an_engine_that_says_nothing_is_taken(library: PluginLibraryUnderTest) -> None:
    layer = moe_layer()
    plugin = library.create(layer.operator, layer.fields)
    assert plugin is not None
    assert takes(library.restore(plugin), layer)
