"""Creators, fields and serialization of the plugins, and what they refuse."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from harness.compile import harness_library, host_plugin_library

from r1trt.ops.registry import OPERATORS
from r1trt.plugin_checks.harness.driver import (
    FIELD_CHAR,
    FIELD_FLOAT32,
    FIELD_FLOAT64,
    FIELD_INT32,
    FIELD_INT64,
    RUNTIME,
    TENSORRT_11,
    VERBOSE,
    Field,
    Harness,
    PluginLibraryUnderTest,
    PluginUnderTest,
    fields_from,
)
from r1trt.plugin_checks.harness.layers import (
    HOST_SMS,
    INPUT_MASK,
    LAYERS,
    NUM_SMS,
    UNKNOWN_WORKSPACE,
    WORKSPACE_UNITS,
    attention_layer,
    moe_layer,
)


@pytest.fixture(scope="module")
def library() -> PluginLibraryUnderTest:
    harness = Harness(harness_library())
    harness.set_version(TENSORRT_11)
    return harness.open(host_plugin_library())


@pytest.fixture(autouse=True)
def no_messages_of_other_tests(library: PluginLibraryUnderTest) -> None:
    library.harness.messages()


def test_creators_are_the_operators(library: PluginLibraryUnderTest) -> None:
    assert [creator["name"] for creator in library.creators] == list(OPERATORS)
    for creator in library.creators:
        assert (creator["version"], creator["namespace"], creator["language"]) == ("1", "r1trt", 0)
        assert creator["interface"] == ["PLUGIN CREATOR_V3ONE", 1, 0]


def test_fields_are_the_operators_attributes(library: PluginLibraryUnderTest) -> None:
    for creator in library.creators:
        attributes = OPERATORS[creator["name"]].attributes
        fields = {field["name"]: field["type"] for field in creator["fields"]}
        expected = {
            name: FIELD_FLOAT32 if isinstance(value, float) else FIELD_INT32
            for name, value in attributes.items()
        }
        assert fields == {**expected, INPUT_MASK: FIELD_INT32}


@pytest.mark.parametrize("operator", OPERATORS)
def test_defaults_are_the_operators(library: PluginLibraryUnderTest, operator: str) -> None:
    plugin = library.create(operator, [])
    assert plugin is not None
    serialized = {field["name"]: field["value"] for field in plugin.serialize()}
    added = {
        INPUT_MASK: 0,
        NUM_SMS: HOST_SMS,
        WORKSPACE_UNITS: UNKNOWN_WORKSPACE,
        "layer_name": "layer",
    }
    assert serialized == {**OPERATORS[operator].attributes, **added}


@pytest.mark.parametrize("name", LAYERS)
def test_identity(library: PluginLibraryUnderTest, name: str) -> None:
    layer = LAYERS[name]
    plugin = library.create(layer.operator, layer.fields)
    assert plugin is not None
    description = plugin.describe()
    assert [description[key] for key in ("name", "version", "namespace")] == [layer.operator, "1", "r1trt"]
    parts = {"PLUGIN": 1, "PLUGIN_V3ONE_CORE": 1, "PLUGIN_V3ONE_BUILD": 2, "PLUGIN_V3ONE_RUNTIME": 1}
    assert description["interfaces"] == [[kind, major, 0] for kind, major in parts.items()]
    assert description["outputs"] == len(layer.outputs)
    assert description["tactics"] == description["valid_tactics"] == description["set_tactic"] == 0
    assert description["metadata"] in description["timing_cache_id"]
    assert description["timing_cache_id"].startswith(f"{layer.operator} 1 ")


@pytest.mark.parametrize("name", LAYERS)
def test_serialization_round_trip(library: PluginLibraryUnderTest, name: str) -> None:
    layer = LAYERS[name]
    plugin = library.create(layer.operator, layer.fields, layer="model.layers.3.op")
    assert plugin is not None
    serialized = {field["name"]: field["value"] for field in plugin.serialize()}
    added = {
        INPUT_MASK: layer.mask,
        NUM_SMS: HOST_SMS,
        WORKSPACE_UNITS: UNKNOWN_WORKSPACE,
        "layer_name": "model.layers.3.op",
    }
    assert serialized == {**layer.attributes, **added}
    for again in (library.restore(plugin), plugin.clone(), plugin.attach(), plugin.clone().attach().clone()):
        assert again.serialize() == plugin.serialize()
        assert again.describe() == plugin.describe()
    assert library.harness.errors() == []


def test_a_copy_outlives_its_original(library: PluginLibraryUnderTest) -> None:
    layer = moe_layer()
    plugin = library.create(layer.operator, layer.fields)
    assert plugin is not None
    clone = plugin.clone()
    expected = plugin.serialize()
    del plugin
    assert clone.serialize() == expected


@pytest.mark.parametrize("kind", [FIELD_INT64, FIELD_FLOAT64])
def test_wide_numbers_are_taken(library: PluginLibraryUnderTest, kind: int) -> None:
    field = Field("top_k" if kind == FIELD_INT64 else "adaptive_threshold", [1], kind)
    assert library.create("R1DynamicMoE", [field]) is not None


ROPE, ATTENTION, MOE = OPERATORS
REJECTED: Mapping[str, tuple[str, list[Field], str]] = {
    "unknown name": (
        ROPE,
        fields_from({"theta": 1.0}),
        "unknown attribute 'theta'; known are input_mask, interleaved",
    ),
    "given twice": (ROPE, fields_from({"interleaved": 1}) * 2, "attribute 'interleaved' is given twice"),
    "mask given twice": (ROPE, fields_from({INPUT_MASK: 15}) * 2, "attribute 'input_mask' is given twice"),
    "float for integer": (ROPE, fields_from({"interleaved": 1.0}), "an integer (INT32 or INT64) expected"),
    "integer for float": (
        ROPE,
        fields_from({"attention_factor": 1}),
        "a float (FLOAT32 or FLOAT64) expected",
    ),
    "text for integer": (MOE, [Field("top_k", [50], FIELD_CHAR)], "an integer (INT32 or INT64) expected"),
    "two numbers": (MOE, [Field("top_k", [1, 2], FIELD_INT32)], "has 2 elements; one number expected"),
    "no number": (MOE, [Field("top_k", [], FIELD_INT32)], "has 0 elements; one number expected"),
    "not a number": (ROPE, fields_from({"attention_factor": float("nan")}), "'attention_factor' is nan"),
    "infinite": (ROPE, fields_from({"attention_factor": float("inf")}), "'attention_factor' is inf"),
    "layer name in a network": (
        ROPE,
        [Field("layer_name", [65], FIELD_CHAR)],
        "unknown attribute 'layer_name'",
    ),
    "multiprocessors in a network": (ROPE, fields_from({NUM_SMS: 8}), "unknown attribute 'num_sms'"),
    "mask of too many inputs": (ROPE, fields_from({INPUT_MASK: 16}), "the operator has 4 inputs"),
    "mask without a required input": (
        ROPE,
        fields_from({INPUT_MASK: 7}),
        "lacks the required input 'past_len'",
    ),
    "negative mask": (ROPE, fields_from({INPUT_MASK: -1}), "attribute 'input_mask' is -1"),
    "interleaved 2": (ROPE, fields_from({"interleaved": 2}), "'interleaved' is 2; from 0 to 1 expected"),
    "attention_factor 0": (ROPE, fields_from({"attention_factor": 0.0}), "'attention_factor' is 0"),
    "temperature below 0": (ROPE, fields_from({"temperature_alpha": -0.5}), "'temperature_alpha' is -0.5"),
    "original below 0": (ROPE, fields_from({"original_max_position": -1}), "'original_max_position' is -1"),
    "scale below 0": (ATTENTION, fields_from({"scale": -1.0}), "'scale' is -1"),
    "block_size 0": (ATTENTION, fields_from({"block_size": 0}), "'block_size' is 0"),
    "inter_block 2": (ATTENTION, fields_from({"inter_block": 2}), "'inter_block' is 2"),
    "lam_skip 0.75": (ATTENTION, fields_from({"lam_skip": 0.75}), "'lam_skip' is 0.75; from 0 to 0.5"),
    "v_head_dim below 0": (ATTENTION, fields_from({"v_head_dim": -1}), "'v_head_dim' is -1"),
    "value cache without v": (
        ATTENTION,
        attention_layer().without("v").fields,
        "'value_cache' is there without 'v'",
    ),
    "one cache": (
        ATTENTION,
        attention_layer().without("value_cache").fields,
        "one of 'key_cache' and 'value_cache'",
    ),
    "latent without v_head_dim": (
        ATTENTION,
        attention_layer().without("v", "value_cache").with_attributes(v_head_dim=0).fields,
        "attribute 'v_head_dim' is 0",
    ),
    "scoring 2": (MOE, fields_from({"scoring": 2}), "'scoring' is 2"),
    "topk_method 3": (MOE, fields_from({"topk_method": 3}), "'topk_method' is 3"),
    "top_k 0": (MOE, fields_from({"top_k": 0}), "'top_k' is 0; from 1 to 8"),
    "top_k 9": (MOE, fields_from({"top_k": 9}), "'top_k' is 9; from 1 to 8"),
    "top_k_min above top_k": (
        MOE,
        fields_from({"top_k": 2, "top_k_min": 3}),
        "at most top_k expected, which is 2",
    ),
    "threshold below 0": (MOE, fields_from({"adaptive_threshold": -0.1}), "'adaptive_threshold' is -0.1"),
    "norm_topk_prob 2": (MOE, fields_from({"norm_topk_prob": 2}), "'norm_topk_prob' is 2"),
    "infinite factor": (
        MOE,
        fields_from({"routed_scaling_factor": float("inf")}),
        "'routed_scaling_factor' is inf",
    ),
    "negative factor": (
        MOE,
        fields_from({"routed_scaling_factor": -0.5}),
        "'routed_scaling_factor' is -0.5; from 0 to",
    ),
    "n_group 0": (MOE, fields_from({"n_group": 0}), "'n_group' is 0"),
    "n_group 33": (MOE, fields_from({"n_group": 33}), "'n_group' is 33; from 1 to 32"),
    "topk_group above n_group": (MOE, fields_from({"topk_group": 2}), "at most n_group expected, which is 1"),
    "half a shared expert": (MOE, moe_layer().without("shared_down").fields, "one of 'shared_gate_up' and"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_rejection_of_fields(library: PluginLibraryUnderTest, case: str) -> None:
    operator, fields, expected = REJECTED[case]
    assert library.create(operator, fields, layer="layers.7.op") is None
    [message] = library.harness.errors()
    assert message.startswith(f"{operator} layer 'layers.7.op': createPlugin: ")
    assert expected in message


def test_a_plugin_that_is_made_says_so(library: PluginLibraryUnderTest) -> None:
    """The tests of the real ONNX parser read the attributes from this message."""
    layer = LAYERS["rope"]
    plugin = library.create(layer.operator, layer.fields)
    assert plugin is not None
    metadata = plugin.describe()["metadata"]
    expected = f"R1DynamicRoPE layer 'layer': createPlugin: {metadata}"
    assert library.harness.messages() == [(VERBOSE, expected)]


def test_every_attribute_has_a_rejected_value() -> None:
    for name, operator in OPERATORS.items():
        tested = {item.name for target, fields, _ in REJECTED.values() if target == name for item in fields}
        assert set(operator.attributes) <= tested


def test_a_runtime_takes_the_layers_name(library: PluginLibraryUnderTest) -> None:
    name = Field("layer_name", [ord(letter) for letter in "attn"], FIELD_CHAR)
    plugin = library.create(ROPE, [name], layer="", phase=RUNTIME)
    assert plugin is not None
    assert plugin.serialize()[-1]["value"] == "attn"


def test_a_plugin_plans_for_the_gpu_that_its_engine_was_built_on(library: PluginLibraryUnderTest) -> None:
    """The workspace was made there: a GPU with more multiprocessors must not want a larger one."""
    layer = attention_layer(seq=1, capacity=4096)

    def restored(sms: int) -> PluginUnderTest:
        fields = [*layer.fields, Field(NUM_SMS, [sms], FIELD_INT32)]
        plugin = library.create(layer.operator, fields, phase=RUNTIME)
        assert plugin is not None, library.harness.errors()
        return plugin

    def workspace(plugin: PluginUnderTest) -> int:
        return plugin.workspace(layer.tensors, layer.outputs)

    here = library.create(layer.operator, layer.fields)
    assert here is not None
    assert workspace(here) == workspace(restored(HOST_SMS)) > workspace(restored(2)) > 0
    assert [field["value"] for field in restored(2).serialize() if field["name"] == NUM_SMS] == [2]


@pytest.mark.parametrize(("name", "value"), [(NUM_SMS, -1), (NUM_SMS, 1 << 17), (WORKSPACE_UNITS, -2)])
def test_an_impossible_number_of_the_librarys_own(
    library: PluginLibraryUnderTest, name: str, value: int
) -> None:
    fields = [Field(name, [value], FIELD_INT32)]
    assert library.create(ATTENTION, fields, phase=RUNTIME) is None
    assert f"'{name}' is {value}" in library.harness.errors()[0]
