"""Layers of the plugins with tensors in the kernels' memory, and what they should compute."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.ops.dynamic_rope import DYNAMIC_ROPE
from r1trt.ops.expert_parts import PARTED, expert_parts
from r1trt.ops.hla_attention import HLA_ATTENTION
from r1trt.plugin_checks.cases import moe_reference
from r1trt.plugin_checks.cases.arrays import FLOAT8_E4M3
from r1trt.plugin_checks.cases.case import CheckFailure
from r1trt.plugin_checks.cases.moe_cases import MoeCase, Problem
from r1trt.plugin_checks.harness import reference
from r1trt.plugin_checks.harness.driver import BF16, FLOAT, FP8, HALF, NUMPY_TYPES, PluginLibraryUnderTest
from r1trt.plugin_checks.harness.layers import (
    Layer,
    attention_layer,
    in_parts,
    latent_attention_layer,
    moe_layer,
    rope_layer,
)
from r1trt.plugin_checks.memory import Memory

Arrays = dict[str, np.ndarray]
# Largest error as a share of the largest element: a few units in the last place of the activation type.
TOLERANCE: Mapping[int, float] = {FLOAT: 1e-6, HALF: 4e-3, BF16: 2e-2}


@dataclass(frozen=True, kw_only=True)
class Expected:
    """One output of a definition.

    Attributes:
        value: In FP64.
        allowed: Of each element the error that is allowed; None: the case's tolerance times the largest
            element.
    """

    value: np.ndarray
    allowed: np.ndarray | None = None

    def error(self, got: np.ndarray, tolerance: float) -> float:
        """The largest error over what is allowed; what is no number is infinitely wrong."""
        allowed = tolerance * np.abs(self.value).max() if self.allowed is None else self.allowed
        wrong = np.abs(got - self.value)
        found = float(
            np.divide(wrong, allowed, out=np.where(wrong == 0, 0.0, np.inf), where=allowed > 0).max()
        )
        return found if np.isfinite(found) else np.inf


@dataclass(frozen=True, kw_only=True)
class PluginCase:
    """A layer, how its tensors are drawn, and its definition.

    Attributes:
        name: For people.
        layer: Tensors and attributes.
        draw: Random tensors that belong together.
        expected: The outputs; those past the last are not compared.
        tolerance: Of the largest error, as a share of the largest element; for outputs without `allowed`.
    """

    name: str
    layer: Layer
    draw: Callable[[Layer, np.random.Generator], Arrays]
    expected: Callable[[Layer, Arrays], list[Expected]]
    tolerance: float


def _values(values: Iterable[np.ndarray]) -> list[Expected]:
    return [Expected(value=value) for value in values]


def _random(layer: Layer, generator: np.random.Generator, scale: float) -> Arrays:
    arrays = {}
    for name, tensor in layer.inputs.items():
        if name not in ("past_len", "seq_len"):
            values = np.asarray(generator.normal(size=tensor.dims) * scale)
            arrays[name] = values.astype(NUMPY_TYPES[tensor.type])
    return arrays


def _draw_rope(layer: Layer, generator: np.random.Generator) -> Arrays:
    batch = layer.inputs["past_len"].dims[0]
    return {**_random(layer, generator, 1.0), "past_len": generator.integers(0, 100, batch)}


def _rope(layer: Layer, arrays: Arrays) -> list[Expected]:
    inv_freq, past_len = arrays["inv_freq"], arrays["past_len"]
    return _values(reference.rope(arrays[name], inv_freq, past_len, layer.attributes) for name in ("q", "k"))


def _draw_attention(layer: Layer, generator: np.random.Generator) -> Arrays:
    batch, seq = layer.inputs["q"].dims[:2]
    arrays = _random(layer, generator, 0.5)
    capacity = layer.inputs["key_cache"].dims[2] if "key_cache" in layer.inputs else seq
    arrays["past_len"] = generator.integers(0, capacity - seq + 1, batch)
    arrays["seq_len"] = generator.integers(1, seq + 1, batch)
    if "lam" in arrays:
        arrays["lam"] = generator.uniform(0, 1, arrays["lam"].shape).astype(np.float32)
    return arrays


def _attention(layer: Layer, arrays: Arrays) -> list[Expected]:
    if "v" in layer.inputs:
        return _values(reference.attention(arrays, layer.attributes)[: len(layer.outputs)])
    size = int(layer.attributes["v_head_dim"])
    values = {"v": arrays["k"][..., :size], "value_cache": arrays["key_cache"][..., :size]}
    return _values(reference.attention({**arrays, **values}, layer.attributes)[:2])


def _draw_moe(layer: Layer, generator: np.random.Generator) -> Arrays:
    batch, seq = layer.inputs["x"].dims[:2]
    arrays = {**_random(layer, generator, 0.3), "seq_len": generator.integers(1, seq + 1, batch)}
    if "x_scale" in arrays:
        for name, scale in (("x_scale", 0.01), ("mid_scale", 0.25)):
            arrays[name] = np.full(layer.inputs[name].dims, scale, np.float32)
        for name in arrays:
            if name.partition(".")[0] in ("gate_up_scale", "down_scale"):
                arrays[name] = generator.uniform(0.2, 2.0, arrays[name].shape).astype(np.float32)
    return arrays


def _joined(layer: Layer, arrays: Arrays) -> Arrays:
    """The tensors of the same layer with all experts in one part."""
    experts, parts = len(arrays["w_router"]), int(layer.attributes["expert_parts"])
    joined = {name: array for name, array in arrays.items() if "." not in name}
    for name in set(PARTED) & set(arrays):
        pieces = [arrays[part.input(name)] for part in expert_parts(experts, parts)]
        first = len(pieces[0]) if parts == 1 else -(-experts // parts)
        joined[name] = np.concatenate([pieces[0][:first], *pieces[1:], pieces[0][first:]])
    return joined


def _moe(layer: Layer, arrays: Arrays) -> list[Expected]:
    return _values([reference.moe(_joined(layer, arrays), layer.attributes)])


def _weight(weight: np.ndarray, scale: np.ndarray) -> Any:
    value = weight.astype(np.float64) * scale.astype(np.float64)
    return SimpleNamespace(value=value)


def _moe_fp8(layer: Layer, arrays: Arrays, sm: int) -> list[Expected]:
    """By the kernels' own reference, which also quantizes what enters a product.

    Tensor cores add FP8 products in a width of their own, and a sum a little beside is an element that is
    rounded to the other of two numbers 6 % apart: the reference knows how much that may be.
    """
    arrays = _joined(layer, arrays)
    batch, seq, hidden = arrays["x"].shape
    experts, _, width = arrays["w_down"].shape
    at = layer.attributes
    case = MoeCase(
        batch=batch, seq=seq, hidden=hidden, experts=experts, width=width,
        shared_width=arrays["shared_down"].shape[1], top_k=int(at["top_k"]), top_k_min=int(at["top_k_min"]),
        threshold=at["adaptive_threshold"], sigmoid=bool(at["scoring"]), method=int(at["topk_method"]),
        norm=bool(at["norm_topk_prob"]), scaling=at["routed_scaling_factor"], n_group=int(at["n_group"]),
        topk_group=int(at["topk_group"]), weight_type=FLOAT8_E4M3, static=True, sm=sm,
    )  # fmt: skip
    gate_up, down = arrays["gate_up_scale"], arrays["down_scale"]
    problem = Problem(
        x=arrays["x"], seq_len=arrays["seq_len"], w_router=arrays["w_router"], bias=arrays["router_bias"],
        gate_up=_weight(arrays["w_gate_up"], gate_up[:experts, None, None]),
        down=_weight(arrays["w_down"], down[:experts, None, None]),
        shared_gate_up=_weight(arrays["shared_gate_up"], gate_up[experts]),
        shared_down=_weight(arrays["shared_down"], down[experts]),
        x_scale=arrays["x_scale"], mid_scale=arrays["mid_scale"],
    )  # fmt: skip
    value, allowed, close = moe_reference.reference(case, problem)
    allowed[close] = np.inf  # which experts a token goes to is a matter of rounding
    return [Expected(value=value.reshape(arrays["x"].shape), allowed=allowed.reshape(arrays["x"].shape))]


def _case(name: str, layer: Layer) -> PluginCase:
    draw, expected = {
        DYNAMIC_ROPE.name: (_draw_rope, _rope),
        HLA_ATTENTION.name: (_draw_attention, _attention),
        DYNAMIC_MOE.name: (_draw_moe, _moe),
    }[layer.operator]
    limit = TOLERANCE[layer.outputs[0].type]
    return PluginCase(name=name, layer=layer, draw=draw, expected=expected, tolerance=limit)


def plugin_cases(sm: int) -> list[PluginCase]:
    """Every plugin, in every type and form, for a compute capability."""
    narrow = moe_layer(hidden=256, width=128, shared=128, weights=FP8)
    fp8, parts = _case("moe fp8", narrow), _case("moe fp8 in parts", in_parts(narrow, 3))
    return [
        _case("rope fp32", rope_layer(FLOAT)),
        _case("rope fp16", rope_layer(HALF)),
        _case("rope bf16", rope_layer(BF16)),
        _case("attention bf16", attention_layer()),
        _case("attention fp16 128", attention_layer(HALF, head_dim=128)),
        _case("attention decode", attention_layer(seq=1)),
        _case("attention without a cache", attention_layer(cache=False).without("lam")),
        _case("attention latent", latent_attention_layer()),
        _case("moe bf16", moe_layer()),
        _case("moe fp16 without a shared expert", moe_layer(HALF, shared=0).without("router_bias")),
        _case("moe in parts", in_parts(moe_layer(), 3)),
        replace(fp8, expected=partial(_moe_fp8, sm=sm)),
        replace(parts, expected=partial(_moe_fp8, sm=sm)),
    ]


class PluginRun:
    """A plugin with its tensors in place, ready to be enqueued again and again.

    Args:
        library: The plugin library in the harness.
        memory: What its kernels reach.
        case: The layer.
        arrays: The first tensors.
    """

    def __init__(
        self, library: PluginLibraryUnderTest, memory: Memory, case: PluginCase, arrays: Arrays
    ) -> None:
        self.memory, self.case, self.layer = memory, case, case.layer
        made = library.create(self.layer.operator, self.layer.fields, layer="layers.0.op")
        if made is None:
            raise CheckFailure(f"{case.name}: not created: {library.harness.messages()}")
        # As an engine has it: serialized, made again, attached to a context.
        self.plugin: Any = library.restore(made).attach()
        tensors, outputs = self.layer.tensors, self.layer.outputs
        if not self.plugin.on_shape_change(tensors, outputs):
            raise CheckFailure(f"{case.name}: onShapeChange: {self.plugin.messages()}")
        self.inputs = {name: memory.upload(np.ascontiguousarray(arrays[name])) for name in self.layer.names}
        self.outputs = []
        for index, tensor in enumerate(outputs):
            alias = self.plugin.aliased_input(index)
            size = int(np.prod(tensor.dims)) * np.dtype(NUMPY_TYPES[tensor.type]).itemsize
            self.outputs.append(self.inputs[self.layer.names[alias]] if alias >= 0 else memory.allocate(size))
        self.workspace = memory.allocate(self.plugin.workspace(tensors, outputs))

    def set_inputs(self, arrays: Arrays) -> None:
        """Overwrites every input where it lies, and the outputs with NaN."""
        for output, tensor in zip(self.outputs, self.layer.outputs, strict=True):
            size = int(np.prod(tensor.dims)) * np.dtype(NUMPY_TYPES[tensor.type]).itemsize
            self.memory.poison(output, size)
        for name, address in self.inputs.items():
            array = np.ascontiguousarray(arrays[name])
            self.memory.write(address, array.ctypes.data, array.nbytes)

    def enqueue(self) -> None:
        """Enqueues on the memory's stream."""
        inputs = [self.inputs[name] for name in self.layer.names]
        done = self.plugin.enqueue(
            self.layer.tensors, self.layer.outputs, inputs, self.outputs, self.workspace, self.memory.stream
        )
        if not done:
            raise CheckFailure(f"{self.case.name}: enqueue: {self.plugin.messages()}")

    def error(self, arrays: Arrays) -> float:
        """Largest error of the outputs as they are, over the tolerance; NaN counts as infinite."""
        worst = 0.0
        expected = self.case.expected(self.layer, arrays)
        for address, tensor, want in zip(self.outputs, self.layer.outputs, expected, strict=False):
            got = self.memory.download(address, tensor.dims, NUMPY_TYPES[tensor.type]).astype(np.float64)
            worst = max(worst, want.error(got, self.case.tolerance))
        return worst
