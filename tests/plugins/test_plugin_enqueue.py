"""enqueue of every plugin, its kernels compiled for the CPU, against the operators' definitions."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from harness.compile import harness_library, host_plugin_library

from r1trt.ops.expert_parts import PARTED, expert_parts
from r1trt.plugin_checks.harness import reference
from r1trt.plugin_checks.harness.driver import (
    BF16,
    FLOAT,
    FP8,
    HALF,
    NUMPY_TYPES,
    TENSORRT_11,
    WARNING,
    Harness,
    PluginLibraryUnderTest,
    PluginUnderTest,
    Tensor,
    aligned_copy,
)
from r1trt.plugin_checks.harness.layers import (
    Layer,
    attention_layer,
    in_parts,
    latent_attention_layer,
    moe_layer,
    rope_layer,
)

# Largest error as a share of the largest element: a few units in the last place of the activation type.
TOLERANCE = {FLOAT: 1e-6, HALF: 4e-3, BF16: 2e-2}


@pytest.fixture(scope="module")
def library() -> PluginLibraryUnderTest:
    harness = Harness(harness_library())
    harness.set_version(TENSORRT_11)
    return harness.open(host_plugin_library())


def created(library: PluginLibraryUnderTest, layer: Layer) -> PluginUnderTest:
    plugin = library.create(layer.operator, layer.fields, layer="layers.7.op")
    assert plugin is not None, library.harness.messages()
    return plugin


def random_inputs(
    layer: Layer, lengths: Mapping[str, list[int]], scale: float = 1.0
) -> dict[str, np.ndarray]:
    """Random tensors of the layer's types; lengths as they are given."""
    generator = np.random.default_rng(0)
    arrays = {}
    for name, tensor in layer.inputs.items():
        values = np.array(lengths[name]) if name in lengths else generator.normal(size=tensor.dims) * scale
        arrays[name] = aligned_copy(np.asarray(values).astype(NUMPY_TYPES[tensor.type]))
    return arrays


def enqueued(
    plugin: PluginUnderTest, layer: Layer, arrays: Mapping[str, np.ndarray], *, aliased: bool = True
) -> list[np.ndarray]:
    """Runs the layer; aliased outputs are the inputs' own arrays."""
    assert plugin.on_shape_change(layer.tensors, layer.outputs), plugin.messages()
    outputs = []
    for index, tensor in enumerate(layer.outputs):
        alias = plugin.aliased_input(index) if aliased else -1
        fresh = aligned_copy(np.full(tensor.dims, np.nan, NUMPY_TYPES[tensor.type]))
        outputs.append(arrays[layer.names[alias]] if alias >= 0 else fresh)
    workspace = aligned_copy(np.full(plugin.workspace(layer.tensors, layer.outputs), 0xFF, np.uint8))
    done = plugin.enqueue(
        layer.tensors, layer.outputs, [arrays[name].ctypes.data for name in layer.names],
        [output.ctypes.data for output in outputs], workspace.ctypes.data,
    )  # fmt: skip
    assert done, plugin.messages()
    return outputs


def assert_close(found: np.ndarray, expected: np.ndarray, type: int) -> None:
    error = np.abs(found.astype(np.float64) - expected).max() / np.abs(expected).max()
    assert error <= TOLERANCE[type], f"largest error {error:.3g}"


@pytest.mark.parametrize("type", [FLOAT, HALF, BF16])
@pytest.mark.parametrize("interleaved", [0, 1])
def test_rope(library: PluginLibraryUnderTest, type: int, interleaved: int) -> None:
    layer = rope_layer(type).with_attributes(interleaved=interleaved)
    arrays = random_inputs(layer, {"past_len": [0, 7]})
    outputs = enqueued(created(library, layer), layer, arrays)
    for name, output in zip(("q", "k"), outputs, strict=True):
        expected = reference.rope(arrays[name], arrays["inv_freq"], arrays["past_len"], layer.attributes)
        assert_close(output, expected, type)


ATTENTION_LAYERS = {
    "bf16": attention_layer(),
    "fp16": attention_layer(HALF, head_dim=128),
    "no cache": attention_layer(cache=False),
    "no lam": attention_layer().without("lam"),
    "decode": attention_layer(seq=1),
}


@pytest.mark.parametrize("name", ATTENTION_LAYERS)
def test_attention(library: PluginLibraryUnderTest, name: str) -> None:
    layer = ATTENTION_LAYERS[name]
    seq = layer.inputs["q"].dims[1]
    cached = "key_cache" in layer.inputs
    lengths = {"past_len": [0, 37] if cached else [0, 0], "seq_len": [max(1, seq - 1), seq]}
    arrays = random_inputs(layer, lengths)
    if "lam" in arrays:
        arrays["lam"][...] = np.linspace(0, 1, arrays["lam"].size).reshape(arrays["lam"].shape)
    expected = reference.attention(arrays, layer.attributes)
    outputs = enqueued(created(library, layer), layer, arrays)
    type = layer.outputs[0].type
    for output, wanted in zip(outputs, expected, strict=False):
        assert_close(output, wanted, type)


def test_caches_that_are_not_aliased_are_copied(library: PluginLibraryUnderTest) -> None:
    layer = attention_layer()
    arrays = random_inputs(layer, {"past_len": [0, 37], "seq_len": [4, 5]})
    before = {name: array.copy() for name, array in arrays.items()}
    apart = enqueued(created(library, layer), layer, arrays, aliased=False)
    for name in ("key_cache", "value_cache"):
        np.testing.assert_array_equal(arrays[name].view(np.uint16), before[name].view(np.uint16))
    in_place = enqueued(created(library, layer), layer, arrays)
    for found, wanted in zip(apart, in_place, strict=True):
        np.testing.assert_array_equal(found.view(np.uint16), wanted.view(np.uint16))


def test_copied_caches_are_reported_once(library: PluginLibraryUnderTest, tmp_path: Path) -> None:
    # A copy of the library has said nothing yet.
    fresh = library.harness.open(Path(shutil.copy(host_plugin_library(), tmp_path / "copy.so")))
    layer = attention_layer()
    arrays = random_inputs(layer, {"past_len": [0, 37], "seq_len": [4, 5]})
    library.harness.messages()

    def warnings() -> list[str]:
        return [text for severity, text in library.harness.messages() if severity == WARNING]

    enqueued(created(fresh, layer), layer, arrays)
    assert warnings() == []
    enqueued(created(fresh, layer), layer, arrays, aliased=False)
    [text] = warnings()
    assert text.startswith(
        "R1HLAAttention layer 'layers.7.op': enqueue: the engine gives a cache's output memory"
    )
    assert f" {arrays['key_cache'].nbytes} bytes are copied in every call" in text
    for plugin in (created(fresh, layer), created(fresh, layer)):
        enqueued(plugin, layer, arrays, aliased=False)
    assert warnings() == []


def test_latent_attention(library: PluginLibraryUnderTest) -> None:
    layer = latent_attention_layer()
    arrays = random_inputs(layer, {"past_len": [40], "seq_len": [2]}, scale=0.5)
    value_dim = int(layer.attributes["v_head_dim"])
    values = {"v": arrays["k"][..., :value_dim], "value_cache": arrays["key_cache"][..., :value_dim]}
    y, keys, _ = reference.attention({**arrays, **values}, layer.attributes)
    outputs = enqueued(created(library, layer), layer, arrays)
    assert_close(outputs[0], y, BF16)
    assert_close(outputs[1], keys, BF16)


@pytest.mark.parametrize("type", [HALF, BF16])
@pytest.mark.parametrize("shared", [0, 48])
@pytest.mark.parametrize("scoring", [0, 1])
def test_moe(library: PluginLibraryUnderTest, type: int, shared: int, scoring: int) -> None:
    layer = moe_layer(type, shared=shared).with_attributes(scoring=scoring)
    arrays = random_inputs(layer, {"seq_len": [5, 3]}, scale=0.3)
    expected = reference.moe(arrays, layer.attributes)
    [y] = enqueued(created(library, layer), layer, arrays)
    assert_close(y, expected, type)
    assert not y[1, 3:].any()


@pytest.mark.parametrize("form", ["per expert", "per output row, shared behind", "per block"])
def test_moe_with_fp8_weights(library: PluginLibraryUnderTest, form: str) -> None:
    """A router, scales and weights for which every layout, and the shared expert's place behind, matter."""
    shared = 0 if form == "per block" else 128
    layer = moe_layer(hidden=256, width=128, shared=shared, weights=FP8)
    layer, widths = _with_scales(layer, form)
    arrays = random_inputs(layer, {"seq_len": [5, 3]}, scale=0.3)
    arrays["x_scale"][...] = 0.01
    arrays["mid_scale"][...] = 0.25
    generator = np.random.default_rng(1)
    for name in ("gate_up_scale", "down_scale"):
        arrays[name][...] = generator.uniform(0.2, 2.0, arrays[name].shape)
    expected = reference.moe(_dequantized(arrays, widths), layer.attributes)
    [y] = enqueued(created(library, layer), layer, arrays)
    error = np.abs(y.astype(np.float64) - expected).max() / np.abs(expected).max()
    # Activations are quantized to E4M3 too: 3 bits of mantissa, averaged over the sums.
    assert error < 0.06, f"largest error {error:.3g}"


@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("weights", [None, FP8])
def test_moe_in_parts(library: PluginLibraryUnderTest, weights: int | None, parts: int) -> None:
    """Bit by bit what the experts in one part give; the shared expert's scale stands behind part 0's."""
    whole = moe_layer(hidden=256, width=128, shared=128, weights=weights)
    arrays = random_inputs(whole, {"seq_len": [5, 3]}, scale=0.3)
    generator = np.random.default_rng(1)
    for name in ("gate_up_scale", "down_scale") if weights == FP8 else ():
        arrays[name][...] = generator.uniform(0.2, 2.0, arrays[name].shape)
    [want] = enqueued(created(library, whole), whole, arrays)
    layer = in_parts(whole, parts)
    cut = {name: array for name, array in arrays.items() if name not in PARTED}
    for part in expert_parts(8, parts):
        for name in set(PARTED) & set(arrays):
            behind = arrays[name][8:] if part.index == 0 else arrays[name][:0]
            cut[part.input(name)] = np.concatenate([arrays[name][part.first : part.stop], behind])
    [y] = enqueued(created(library, layer), layer, cut)
    np.testing.assert_array_equal(y.view(np.uint16), want.view(np.uint16))


def test_moe_as_deepseek_ships_it(library: PluginLibraryUnderTest) -> None:
    """Block scales in parts, the shared expert's behind part 0's; activations are quantized as they come."""
    layer = moe_layer(hidden=256, width=128, shared=128, weights=FP8).without("x_scale", "mid_scale")
    layer, widths = _with_scales(layer, "per block")
    arrays = random_inputs(layer, {"seq_len": [5, 3]}, scale=0.3)
    generator = np.random.default_rng(1)
    for name in ("gate_up_scale", "down_scale"):
        arrays[name][...] = generator.uniform(0.2, 2.0, arrays[name].shape)
    expected = reference.moe(_dequantized(arrays, widths), layer.attributes)
    parts, cut = in_parts(layer, 2), {name: array for name, array in arrays.items() if name not in PARTED}
    for scale, weight, blocks in (("gate_up_scale", "w_gate_up", (2, 2)), ("down_scale", "w_down", (2, 1))):
        each = blocks[0] * blocks[1]
        halves = np.split(arrays[scale][: 8 * each], 2)
        cut |= {scale: np.concatenate([halves[0], arrays[scale][8 * each :]])}
        cut |= {f"{scale}.1": halves[1].reshape(4, *blocks)}
        cut |= dict(zip((weight, f"{weight}.1"), np.split(arrays[weight], 2), strict=True))
        for name in (scale, f"{scale}.1"):
            parts = parts.with_input(name, Tensor(FLOAT, cut[name].shape))
    [y] = enqueued(created(library, parts), parts, cut)
    error = np.abs(y.astype(np.float64) - expected).max() / np.abs(expected).max()
    assert error < 0.06, f"largest error {error:.3g}"


def _with_scales(layer: Layer, form: str) -> tuple[Layer, Mapping[str, tuple[int, int]]]:
    """The layer with scales in a form, and the rows and columns that one scale is for."""

    found, widths = layer, {}
    for scale, weight, shared in (
        ("gate_up_scale", "w_gate_up", "shared_gate_up"),
        ("down_scale", "w_down", "shared_down"),
    ):
        experts, rows, columns = layer.inputs[weight].dims
        extra = layer.inputs[shared].dims[0] if shared in layer.inputs else 0
        block = {"per expert": (rows, columns), "per block": (128, 128)}.get(form, (1, columns))
        count = experts * (rows // block[0]) * (columns // block[1])
        behind = {"per expert": 1, "per block": (extra // 128) * (columns // 128)}.get(form, extra)
        behind = behind if extra else 0
        found = found.with_input(scale, Tensor(FLOAT, (count + behind,)))
        widths[scale] = block
    return found, widths


def _dequantized(
    arrays: Mapping[str, np.ndarray], widths: Mapping[str, tuple[int, int]]
) -> dict[str, np.ndarray]:
    result = dict(arrays)
    for scale, weight, shared in (
        ("gate_up_scale", "w_gate_up", "shared_gate_up"),
        ("down_scale", "w_down", "shared_down"),
    ):
        experts, rows, columns = arrays[weight].shape
        height, width = widths[scale]
        count = experts * (rows // height) * (columns // width)
        grid = arrays[scale][:count].reshape(experts, rows // height, columns // width)
        result[weight] = arrays[weight].astype(np.float64) * grid.repeat(height, 1).repeat(width, 2)
        if shared in arrays:
            behind = arrays[scale][count:].reshape(-1, columns // width if width < columns else 1)
            tall, wide = (arrays[shared].shape[axis] // behind.shape[axis] for axis in (0, 1))
            result[shared] = arrays[shared].astype(np.float64) * behind.repeat(tall, 0).repeat(wide, 1)
    return result


def test_a_context_has_shapes_of_its_own(library: PluginLibraryUnderTest) -> None:
    small, large = rope_layer(seq=1), rope_layer(seq=9)
    plugin = created(library, small)
    first, second = plugin.attach(), plugin.attach()
    arrays = random_inputs(large, {"past_len": [0, 7]})
    assert first.on_shape_change(small.tensors, small.outputs)
    outputs = enqueued(second, large, arrays)
    expected = reference.rope(arrays["q"], arrays["inv_freq"], arrays["past_len"], large.attributes)
    assert_close(outputs[0], expected, BF16)


def test_a_restored_plugin_computes_the_same(library: PluginLibraryUnderTest) -> None:
    layer = moe_layer()
    arrays = random_inputs(layer, {"seq_len": [5, 3]}, scale=0.3)
    plugin = created(library, layer)
    expected = enqueued(plugin, layer, arrays)
    found = enqueued(library.restore(plugin).attach(), layer, arrays)
    np.testing.assert_array_equal(found[0].view(np.uint16), expected[0].view(np.uint16))


def test_an_empty_batch_succeeds(library: PluginLibraryUnderTest) -> None:
    for make in (rope_layer, attention_layer, moe_layer):
        layer = make(batch=0)
        lengths: dict[str, list[int]] = {"past_len": [], "seq_len": []}
        enqueued(created(library, layer), layer, random_inputs(layer, lengths))


def test_enqueue_without_shapes_is_an_error(library: PluginLibraryUnderTest) -> None:
    layer = rope_layer()
    plugin = created(library, layer)
    assert not plugin.enqueue(layer.tensors, layer.outputs, [0] * 4, [0] * 2)
    assert "R1DynamicRoPE layer 'layers.7.op': enqueue: no valid shapes" in plugin.messages()
    assert plugin.on_shape_change(layer.tensors, layer.outputs)
    bad = layer.with_input("past_len", rope_layer(batch=3).inputs["past_len"])
    assert not plugin.on_shape_change(bad.tensors, layer.outputs)
    assert not plugin.enqueue(layer.tensors, layer.outputs, [0] * 4, [0] * 2)


def test_a_kernels_refusal_is_reported(library: PluginLibraryUnderTest) -> None:
    layer = rope_layer()
    plugin = created(library, layer)
    assert plugin.on_shape_change(layer.tensors, layer.outputs)
    assert not plugin.enqueue(layer.tensors, layer.outputs, [0] * 4, [0] * 2)
    assert "enqueue: kernels were not enqueued: cudaErrorInvalidDevicePointer" in plugin.messages()


def test_a_missing_workspace_is_reported(library: PluginLibraryUnderTest) -> None:
    layer = moe_layer()
    plugin = created(library, layer)
    assert plugin.on_shape_change(layer.tensors, layer.outputs)
    assert not plugin.enqueue(layer.tensors, layer.outputs, [0] * len(layer.tensors), [0])
    assert "no workspace; " in plugin.messages()
