"""Types, formats, shapes, aliases and workspaces of the plugins, through every method but enqueue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from harness.compile import harness_library, host_plugin_library
from harness.official_headers import official_headers

from r1trt.plugin_checks.harness.driver import (
    BF16,
    BOOL,
    CHW32,
    FLOAT,
    FP8,
    HALF,
    INT8,
    INT32,
    INT64,
    TENSORRT_10,
    TENSORRT_11,
    UINT8,
    Harness,
    PluginLibraryUnderTest,
    PluginUnderTest,
    Tensor,
)
from r1trt.plugin_checks.harness.layers import (
    LAYERS,
    Layer,
    attention_layer,
    in_parts,
    latent_attention_layer,
    moe_layer,
    rope_layer,
)

TYPES = (FLOAT, HALF, INT8, INT32, BOOL, UINT8, FP8, BF16, INT64)


# Each side of the interface with the project's declarations and with NVIDIA's.
@pytest.fixture(scope="module", params=["own", "official plugins", "official harness"])
def library(request: pytest.FixtureRequest) -> PluginLibraryUnderTest:
    headers: Mapping[str, Path | None] = {"own": None}
    official = None if request.param in headers else official_headers()
    harness = Harness(harness_library(official if request.param == "official harness" else None))
    harness.set_version(TENSORRT_11)
    return harness.open(host_plugin_library(official if request.param == "official plugins" else None))


def created(library: PluginLibraryUnderTest, layer: Layer) -> PluginUnderTest:
    plugin = library.create(layer.operator, layer.fields, layer="layers.7.op")
    assert plugin is not None, library.harness.messages()
    return plugin


def accepted_types(plugin: PluginUnderTest, layer: Layer, position: int) -> set[int]:
    """Types that a tensor may have when the tensors before it are the layer's."""
    found = set()
    for candidate in TYPES:
        tensors = [*layer.tensors, *layer.outputs]
        tensors[position] = replace(tensors[position], type=candidate)
        count = len(layer.tensors)
        if plugin.supports(position, tensors[:count], tensors[count:]):
            found.add(candidate)
    return found


@pytest.mark.parametrize("activation", [FLOAT, HALF, BF16])
def test_rope_types(library: PluginLibraryUnderTest, activation: int) -> None:
    layer = rope_layer(activation)
    plugin = created(library, layer)
    accepted = [accepted_types(plugin, layer, position) for position in range(6)]
    assert accepted == [{FLOAT, HALF, BF16}, {activation}, {FLOAT}, {INT64}, {activation}, {activation}]


@pytest.mark.parametrize("activation", [HALF, BF16])
def test_attention_types(library: PluginLibraryUnderTest, activation: int) -> None:
    layer = attention_layer(activation)
    plugin = created(library, layer)
    accepted = [accepted_types(plugin, layer, position) for position in range(11)]
    same, number = {activation}, {INT64}
    assert accepted == [{HALF, BF16}, same, same, same, same, {FLOAT}, number, number, same, same, same]


@pytest.mark.parametrize("activation", [HALF, BF16])
@pytest.mark.parametrize("fp8", [False, True])
def test_moe_types(library: PluginLibraryUnderTest, activation: int, fp8: bool) -> None:
    layer = moe_layer(activation, weights=FP8 if fp8 else activation)
    plugin = created(library, layer)
    accepted = {name: accepted_types(plugin, layer, position) for position, name in enumerate(layer.names)}
    assert accepted.pop("x") == {HALF, BF16}
    assert accepted.pop("seq_len") == {INT64}
    assert accepted.pop("w_gate_up") == {activation, FP8}
    for weight in ("w_down", "shared_gate_up", "shared_down"):
        assert accepted.pop(weight) == {FP8 if fp8 else activation}
    assert all(types == {FLOAT} for types in accepted.values()), accepted
    assert accepted_types(plugin, layer, len(layer.tensors)) == {activation}


@pytest.mark.parametrize("name", LAYERS)
def test_only_linear_formats(library: PluginLibraryUnderTest, name: str) -> None:
    layer = LAYERS[name]
    plugin = created(library, layer)
    tensors, count = [*layer.tensors, *layer.outputs], len(layer.tensors)
    for position in range(len(tensors)):
        assert plugin.supports(position, layer.tensors, layer.outputs)
        changed = list(tensors)
        changed[position] = replace(changed[position], format=CHW32)
        assert not plugin.supports(position, changed[:count], changed[count:])


@pytest.mark.parametrize("name", LAYERS)
def test_later_tensors_do_not_matter(library: PluginLibraryUnderTest, name: str) -> None:
    layer = LAYERS[name]
    plugin = created(library, layer)
    tensors, count = [*layer.tensors, *layer.outputs], len(layer.tensors)
    for position in range(len(tensors)):
        later = [replace(item, type=BOOL, format=CHW32) for item in tensors[position + 1 :]]
        changed = [*tensors[: position + 1], *later]
        assert plugin.supports(position, changed[:count], changed[count:])


@pytest.mark.parametrize("name", LAYERS)
def test_output_types(library: PluginLibraryUnderTest, name: str) -> None:
    layer = LAYERS[name]
    types = created(library, layer).output_types(
        [tensor.type for tensor in layer.tensors], len(layer.outputs)
    )
    assert types == [tensor.type for tensor in layer.outputs]


TYPE_FAULTS: Mapping[str, tuple[Layer, str]] = {
    "FP32 attention": (attention_layer(FLOAT), "input 'q' is FLOAT; HALF or BF16 expected"),
    "mixed q and k": (
        rope_layer().with_input("k", Tensor(HALF, (2, 5, 2, 16))),
        "input 'k' is HALF; BF16 expected",
    ),
    "32-bit lengths": (
        rope_layer().with_input("past_len", Tensor(INT32, (2,))),
        "'past_len' is INT32; INT64 expected",
    ),
    "BF16 router": (
        moe_layer().with_input("w_router", Tensor(BF16, (8, 64))),
        "'w_router' is BF16; FLOAT expected",
    ),
    "mixed weights": (
        moe_layer(weights=FP8).with_input("w_down", Tensor(BF16, (8, 64, 32))),
        "'w_down' is BF16; FP8 expected",
    ),
    "FP8 without scales": (moe_layer(weights=FP8).without("gate_up_scale"), "'gate_up_scale' is absent"),
    "scales without FP8": (
        moe_layer().with_input("down_scale", Tensor(FLOAT, (9,))),
        "'down_scale' is there",
    ),
    "a part without a stack": (
        in_parts(moe_layer(), 3).without("w_down.2"),
        "'w_down.2' is absent; 'expert_parts' says which parts there are",
    ),
    "a part without scales": (
        in_parts(moe_layer(weights=FP8), 3).without("down_scale.1"),
        "'down_scale.1' is absent; FP8 weights need it",
    ),
    "a part of another type": (
        in_parts(moe_layer(weights=FP8), 2).with_input("w_gate_up.1", Tensor(BF16, (4, 64, 64))),
        "'w_gate_up.1' is BF16; FP8 expected",
    ),
    "activation scales without FP8": (moe_layer().with_input("x_scale", Tensor(FLOAT, (1,))), "'x_scale' or"),
}


@pytest.mark.parametrize("case", TYPE_FAULTS)
def test_rejection_of_types(library: PluginLibraryUnderTest, case: str) -> None:
    layer, expected = TYPE_FAULTS[case]
    plugin = created(library, layer)
    assert plugin.output_types([tensor.type for tensor in layer.tensors], len(layer.outputs)) is None
    assert expected in plugin.messages()
    assert not plugin.on_shape_change(layer.tensors, layer.outputs)
    assert f"{layer.operator} layer 'layers.7.op': onShapeChange: " in plugin.messages()


def symbolic(layer: Layer, symbols: Mapping[int, int]) -> list[Tensor]:
    """The inputs with some extents turned into symbols."""
    return [
        replace(tensor, dims=tuple(symbols.get(extent, extent) for extent in tensor.dims))
        for tensor in layer.tensors
    ]


def test_output_shapes(library: PluginLibraryUnderTest) -> None:
    layer = rope_layer(batch=3, seq=7)
    shapes = created(library, layer).output_shapes(symbolic(layer, {3: -1, 7: -2}), 2)
    assert shapes == [["s1", "s2", "4", "16"], ["s1", "s2", "2", "16"]]

    layer = attention_layer(batch=3, seq=7)
    shapes = created(library, layer).output_shapes(symbolic(layer, {3: -1, 7: -2}), 3)
    assert shapes == [["s1", "s2", "4", "64"], *[["s1", "2", "96", "64"]] * 2]

    layer = latent_attention_layer(batch=3, seq=7)
    shapes = created(library, layer).output_shapes(symbolic(layer, {3: -1, 7: -2}), 2)
    assert shapes == [["s1", "s2", "4", "512"], ["s1", "1", "64", "576"]]

    layer = moe_layer(batch=3, seq=7)
    shapes = created(library, layer).output_shapes(symbolic(layer, {3: -1, 7: -2}), 1)
    assert shapes == [["s1", "s2", "64"]]


def changed(layer: Layer, name: str, *dims: int) -> Layer:
    return layer.with_input(name, replace(layer.inputs[name], dims=dims))


SHAPE_FAULTS: Mapping[str, tuple[Layer, str]] = {
    "rank": (changed(rope_layer(), "q", 2, 5, 64), "input 'q' is [2, 5, 64]; [B, S, H, d] expected"),
    "batch": (
        changed(rope_layer(), "k", 3, 5, 2, 16),
        "'k' is [3, 5, 2, 16]; [B, S, Hkv, d] expected, and B is 2 in 'q'",
    ),
    "head size": (changed(rope_layer(), "k", 2, 5, 2, 8), "d is 16 in 'q'"),
    "lengths": (changed(rope_layer(), "past_len", 1), "B is 2 in 'q'"),
    "rotary size": (
        changed(rope_layer(), "inv_freq", 9),
        "r/2 is 9 in 'inv_freq'; at most half of the head size",
    ),
    "no frequencies": (changed(rope_layer(), "inv_freq", 0), "at least 1 expected"),
    "heads": (attention_layer(heads=3), "Hkv is 2 in 'k'; a divisor of the query heads expected, H is 3"),
    "cache heads": (changed(attention_layer(), "key_cache", 2, 4, 96, 64), "Hkv is 2 in 'k'"),
    "caches": (changed(attention_layer(), "value_cache", 2, 2, 97, 64), "C is 96 in 'key_cache'"),
    "value size": (changed(attention_layer(), "v", 2, 5, 2, 32), "dv is 32"),
    "lam": (changed(attention_layer(), "lam", 2, 5, 2), "H is 4 in 'q'"),
    "capacity": (attention_layer(capacity=4), "S is 5 in 'q'; at most the cache's capacity expected, C is 4"),
    "v_head_dim": (attention_layer().with_attributes(v_head_dim=32), "the attribute v_head_dim says 32"),
    "latent heads": (
        changed(changed(latent_attention_layer(), "k", 1, 2, 2, 576), "key_cache", 1, 2, 64, 576),
        "Hkv is 2 in 'k'; 1 expected without 'v'",
    ),
    "latent size": (latent_attention_layer(head_dim=256), "at least v_head_dim expected, which is 512"),
    "hidden size": (changed(moe_layer(), "w_router", 8, 32), "D is 64 in 'x'"),
    "experts": (changed(moe_layer(), "w_down", 7, 64, 32), "E is 8 in 'w_router'"),
    "width": (
        changed(moe_layer(), "w_gate_up", 8, 32, 64),
        "2F is 32 in 'w_gate_up'; twice F expected, which is 32",
    ),
    "shared width": (changed(moe_layer(), "shared_gate_up", 48, 64), "twice Fs expected, which is 48"),
    "odd width": (moe_layer(width=24), "F is 24 in 'w_down'; a multiple of 16 expected"),
    "groups": (moe_layer(experts=10), "E is 10 in 'w_router'; a multiple of n_group expected, which is 4"),
    "top_k": (
        moe_layer(experts=2).with_attributes(n_group=1, topk_group=1),
        "at least top_k expected, which is 3",
    ),
    "too many experts": (moe_layer(experts=260), "at most 256 expected"),
    "bias": (changed(moe_layer(), "router_bias", 9), "E is 8 in 'w_router'"),
    "scales": (changed(moe_layer(weights=FP8), "gate_up_scale", 8), "'gate_up_scale' is [8]"),
    "activation scale": (
        changed(moe_layer(weights=FP8), "x_scale", 2),
        "'x_scale' is [2]; one number expected",
    ),
    "a part with too few experts": (
        changed(changed(in_parts(moe_layer(), 3), "w_down.1", 2, 64, 32), "w_gate_up.1", 2, 64, 64),
        "E of part 1 is 2 in 'w_gate_up.1'; 3 expected: 8 experts in 3 equal parts",
    ),
    "parts of other sizes": (
        changed(in_parts(moe_layer(), 3), "w_gate_up.2", 2, 64, 32),
        "'w_gate_up.2' is [2, 64, 32]",
    ),
    "parts with other layouts": (
        changed(in_parts(moe_layer(weights=FP8, shared=0), 2), "gate_up_scale.1", 4, 64),
        "or of the parts, have different layouts",
    ),
    "mixed scale layouts": (
        changed(moe_layer(weights=FP8, shared=0), "down_scale", 8, 64),
        "have different layouts",
    ),
}


@pytest.mark.parametrize("case", SHAPE_FAULTS)
def test_rejection_of_shapes(library: PluginLibraryUnderTest, case: str) -> None:
    layer, expected = SHAPE_FAULTS[case]
    plugin = created(library, layer)
    assert plugin.output_shapes(layer.tensors, len(layer.outputs)) is None
    assert f"{layer.operator} layer 'layers.7.op': getOutputShapes: " in (text := plugin.messages())
    assert expected in text
    assert not plugin.configure(layer.tensors, layer.outputs)
    assert "configurePlugin: " in plugin.messages()
    assert not plugin.on_shape_change(layer.tensors, layer.outputs)
    assert "onShapeChange: " in plugin.messages()
    assert plugin.workspace(layer.tensors, layer.outputs) == 0
    assert "getWorkspaceSize: " in plugin.messages()


SCALE_SHAPES = {
    "per expert": ((8,), (8,)),
    "per output row": ((8, 512), (8, 384)),
    "per block": ((8, 4, 3), (8, 3, 2)),
    "per output row, flat": ((8 * 512,), (8 * 384,)),
    "per block, flat": ((8 * 12,), (8 * 6,)),
}


@pytest.mark.parametrize(
    ("case", "parts"),
    [*((case, 1) for case in SCALE_SHAPES), *((case, 3) for case in SCALE_SHAPES if "flat" not in case)],
)
def test_scale_layouts(library: PluginLibraryUnderTest, case: str, parts: int) -> None:
    gate_up, down = SCALE_SHAPES[case]
    layer = moe_layer(weights=FP8, hidden=384, width=256, shared=0)
    layer = changed(changed(layer, "gate_up_scale", *gate_up), "down_scale", *down)
    layer = in_parts(layer, parts)
    plugin = created(library, layer)
    assert plugin.on_shape_change(layer.tensors, layer.outputs), plugin.messages()


def test_ambiguous_scales_are_refused(library: PluginLibraryUnderTest) -> None:
    # 256 output rows, and 2 x 128 blocks: a vector of 8 x 256 scales can be either.
    layer = moe_layer(weights=FP8, hidden=128 * 128, width=128, shared=0)
    layer = changed(layer, "gate_up_scale", 8 * 256)
    plugin = created(library, layer)
    assert not plugin.on_shape_change(layer.tensors, layer.outputs)
    assert "fits more than one layout" in plugin.messages()


@pytest.mark.parametrize("name", LAYERS)
def test_number_of_tensors(library: PluginLibraryUnderTest, name: str) -> None:
    layer = LAYERS[name]
    plugin = created(library, layer)
    types = [tensor.type for tensor in layer.tensors]
    assert plugin.output_types(types[:-1], len(layer.outputs)) is None
    assert "inputs; " in plugin.messages()
    assert plugin.output_types(types, len(layer.outputs) + 1) is None
    assert "outputs; " in plugin.messages()
    assert not plugin.supports(len(types) + len(layer.outputs), layer.tensors, layer.outputs)


def test_trailing_inputs_need_no_mask(library: PluginLibraryUnderTest) -> None:
    layer = moe_layer()
    fields = [field for field in layer.fields if field.name != "input_mask"]
    plugin = library.create(layer.operator, fields)
    assert plugin is not None
    assert plugin.on_shape_change(layer.tensors, layer.outputs), plugin.messages()
    without_shared = moe_layer(shared=0)
    assert plugin.on_shape_change(without_shared.tensors, layer.outputs), plugin.messages()


def test_caches_are_aliased(library: PluginLibraryUnderTest) -> None:
    def aliases(layer: Layer) -> list[int]:
        plugin = created(library, layer)
        return [plugin.aliased_input(output) for output in range(len(layer.outputs))]

    assert aliases(attention_layer()) == [-1, 3, 4]
    assert aliases(attention_layer().without("lam")) == [-1, 3, 4]
    assert aliases(attention_layer(cache=False)) == [-1]
    assert aliases(latent_attention_layer()) == [-1, 2]
    assert aliases(rope_layer()) == [-1, -1]
    assert aliases(moe_layer()) == [-1]


def with_profile(layer: Layer, high: Layer) -> tuple[list[Tensor], list[Tensor]]:
    """The layer's tensors with the other's as the profile's upper bound."""

    def widened(low: Tensor, top: Tensor) -> Tensor:
        return replace(low, low=low.dims, high=top.dims)

    inputs = [widened(*pair) for pair in zip(layer.tensors, high.tensors, strict=True)]
    return inputs, [widened(*pair) for pair in zip(layer.outputs, high.outputs, strict=True)]


@pytest.mark.parametrize("make", [rope_layer, attention_layer, latent_attention_layer, moe_layer])
def test_workspace_is_that_of_the_profiles_maximum(
    library: PluginLibraryUnderTest, make: type[Layer]
) -> None:
    low, high = make(batch=1, seq=1), make(batch=4, seq=33)
    plugin = created(library, low)
    inputs, outputs = with_profile(low, high)
    assert plugin.configure(inputs, outputs), plugin.messages()
    largest = plugin.workspace(inputs, outputs)
    assert largest == plugin.workspace(high.tensors, high.outputs)
    assert largest >= plugin.workspace(low.tensors, low.outputs)


def test_a_profile_that_breaks_the_contract_is_refused(library: PluginLibraryUnderTest) -> None:
    low, high = attention_layer(seq=5), attention_layer(seq=97)
    plugin = created(library, low)
    assert not plugin.configure(*with_profile(low, high))
    assert "S is 97 in 'q'; at most the cache's capacity" in plugin.messages()


@pytest.mark.parametrize("version", [TENSORRT_10, TENSORRT_11])
def test_messages_reach_the_logger_of_either_version(version: int) -> None:
    harness = Harness(harness_library())
    harness.set_version(version)
    try:
        library = harness.open(host_plugin_library())
        assert library.create("R1DynamicRoPE", rope_layer().fields[:1] * 2) is None
        assert "is given twice" in harness.messages()[0][1]
    finally:
        harness.set_version(TENSORRT_11)


def test_no_message_goes_to_an_unknown_version(capfd: pytest.CaptureFixture[str]) -> None:
    harness = Harness(harness_library())
    library = harness.open(host_plugin_library())
    harness.set_version(80600)
    try:
        assert library.create("R1DynamicRoPE", rope_layer().fields[:1] * 2) is None
        assert harness.messages() == []
        assert "is given twice" in capfd.readouterr().err
    finally:
        harness.set_version(TENSORRT_11)
