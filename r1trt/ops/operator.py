"""What an operator is: everything that a stage has to know of a kind of layer, in one object.

The names of the operators carry `R1` because TensorRT's ONNX parser looks an operator up by its type and
ignores the domain.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import onnx_ir as ir

from r1trt.graph.domain import DOMAIN as DOMAIN
from r1trt.graph.domain import DOMAIN_VERSION as DOMAIN_VERSION
from r1trt.graph.domain import IR_VERSION as IR_VERSION
from r1trt.graph.domain import OPSET as OPSET
from r1trt.graph.functions import AttributeValue as AttributeValue
from r1trt.graph.network_view import LayerParts, ReadBack
from r1trt.ops.cost import CallSize, Cost
from r1trt.ops.layer_precision import INT8, SCALES, AllowedTypes, LayerPrecision, Precision
from r1trt.ops.signature import Signature

Spec = TypeVar("Spec")


@dataclass(frozen=True, kw_only=True)
class Cache:
    """An input and an output that are one state: what a call leaves there is what the next one finds.

    Attributes:
        input: Name of the operator's input.
        output: Name of the operator's output.
        capacity_axis: Axis that counts cached tokens.
    """

    input: str
    output: str
    capacity_axis: int


@dataclass(frozen=True, kw_only=True)
class ScaledWeight:
    """A weight whose scales are wanted: one number, or one for each index of `axis`.

    `block_scales` are those that the checkpoint's own FP8 has.
    """

    value: ir.Value
    axis: int | None
    block_scales: ir.Value | None = None


class Operator(Signature, ABC, Generic[Spec]):
    """One operator: the contract between graphs, plans, lowerings, plugins and what reads a network back.

    Attributes:
        types: Types that a plan may give its layers.
        input_scales: Scales that a quantized input needs; calibration measures them on text.
        weight_scales: Scales that quantized weights need; calibration measures them on the weights.
        caches: Inputs and outputs that are one cache each.
        plugin_types: Activation types that its TensorRT plugin has kernels for; empty without a plugin.
        block_scales: Whether its weights can be a checkpoint's own FP8 with block scales.
    """

    types: ClassVar[AllowedTypes]
    input_scales: ClassVar[tuple[str, ...]] = ()
    weight_scales: ClassVar[tuple[str, ...]] = ()
    caches: ClassVar[tuple[Cache, ...]] = ()
    plugin_types: ClassVar[tuple[ir.DataType, ...]] = ()
    block_scales: ClassVar[bool] = False

    @abstractmethod
    def spec_from_node(self, node: ir.Node) -> Spec:
        """What a body has to know of a node: attributes, static sizes, types.

        Raises:
            ExportError: A static size is missing.
        """

    @abstractmethod
    def default_layer(self, node: ir.Node, activation: Precision, *, fp8: bool) -> LayerPrecision:
        """The types that the rules give a layer, its scales open.

        Args:
            node: A node of the exported graph.
            activation: Type of the activations between layers.
            fp8: Whether products are to be FP8 where the operator gains from it.
        """

    def in_blocks(self, wide: LayerPrecision, code: Precision, block_size: int) -> LayerPrecision:
        """A layer of wide types with its weights in blocks, as narrow as it takes them; else as it is.

        Args:
            wide: The layer in FP32.
            code: `int8`, or `int4`.
            block_size: Neighbours along a row that share a scale.
        """
        return wide

    @abstractmethod
    def realize(self, node: ir.Node, layer: LayerPrecision) -> None:
        """Write a layer's types into the graph; values between layers stay FLOAT."""

    @abstractmethod
    def read_back(self, parts: LayerParts, layer: LayerPrecision) -> ReadBack:
        """What the plan asks of the layers of a network that a node became, and what they have."""

    @abstractmethod
    def cost(self, spec: Spec, layer: LayerPrecision, call: CallSize) -> Cost:
        """Work of one call in the layer's types."""

    def part_costs(self, spec: Spec, layer: LayerPrecision, call: CallSize) -> Mapping[str, Cost]:
        """The same by the operator's parts, whose names are its own; one without a name where it has none."""
        return {"": self.cost(spec, layer, call)}

    def reference_macs(self, spec: Spec, call: CallSize) -> Mapping[str, int]:
        """Multiply-adds of the matrix products that PyTorch computes, masked ones too, by its parts."""
        return {}

    def part_of_input(self, name: str) -> str:
        """The part that reads a weight; the first one where several do."""
        return ""

    def part_of_cache(self, spec: Spec) -> str:
        """The part that reads all of a node's cache."""
        return ""

    def problems(self, layer: LayerPrecision) -> Iterator[str]:
        """Why a layer cannot have these types and scales, whatever its node."""
        for name in ("input", "weight", "output"):
            allowed = getattr(self.types, name)
            if getattr(layer, name) not in allowed:
                yield f"{name} is {getattr(layer, name)}, but can be {_choices(allowed)}"
        for name in SCALES:
            if getattr(layer, name) is not None and name not in self.input_scales + self.weight_scales:
                yield f"{name} is given, but {self.name} has none"
        if layer.input_scale is not None and not layer.quantizes_input:
            yield "input_scale belongs to a quantized input"
        if layer.weight_scale is not None and not layer.quantizes_weight:
            yield "weight_scale belongs to a quantized weight"
        if isinstance(layer.weight_scale, tuple) != (layer.weight_axis is not None):
            yield "weight_axis belongs to a list of weight scales, and to nothing else"
        if layer.cache is not None and not self.caches:
            yield f"cache is {layer.cache}, but {self.name} has none"
        if layer.own_scales and not self.block_scales:
            yield f"own_scales is given, but {self.name} computes with no block scales"
        if layer.block_size is not None and INT8 not in self.types.weight:
            yield f"block_size is {layer.block_size}, but {self.name} has no weights in blocks"
        if layer.weight_error is not None and not layer.quantizes_weight:
            yield "weight_error belongs to a quantized weight"
        if layer.implementation is not None and not self.plugin_types:
            yield f"implementation is {layer.implementation}, but {self.name} has no plugin to choose"
        if layer.weight_axis not in (None, 0):
            yield f"weight_axis is {layer.weight_axis}, but weights are scaled along their rows (axis 0)"
        yield from self.own_problems(layer)

    def own_problems(self, layer: LayerPrecision) -> Iterator[str]:
        """What this operator's layers must keep beyond `types`."""
        if layer.shared_weight is not None:
            yield f"shared_weight is {layer.shared_weight}, but {self.name} has no shared expert"

    def node_problems(self, node: ir.Node, layer: LayerPrecision) -> Iterator[str]:
        """Why a layer does not fit its node: a wrong number of scales, absent inputs."""
        yield from ()

    def plugin_reason(self, node: ir.Node) -> str | None:
        """What TensorRT has no layer of its own for; None where the standard operators' bodies do."""
        return None

    def plugin_problems(self, node: ir.Node) -> Iterator[str]:
        """Sizes of a node that the operator's TensorRT plugin has no kernel for."""
        yield from ()

    def own_scales_problems(self, node: ir.Node, *, plugin: bool) -> Iterator[str]:
        """Why a node's weights cannot stay a checkpoint's FP8 with block scales, for the plugin or at all."""
        yield f"{self.name} computes with no block scales"

    def missing_scales(self, layer: LayerPrecision) -> tuple[str, ...]:
        """Names of the scales that the types ask for and that are not known yet."""
        return self.missing_input_scales(layer) + self.missing_weight_scales(layer)

    def missing_input_scales(self, layer: LayerPrecision) -> tuple[str, ...]:
        """Those that calibration measures on text."""
        needed = self.input_scales * (layer.quantizes_input and not layer.finds_scales)
        return tuple(name for name in needed if getattr(layer, name) is None)

    def missing_weight_scales(self, layer: LayerPrecision) -> tuple[str, ...]:
        """Those that calibration measures on the weights."""
        needed = self.weight_scales * (layer.quantizes_weight and not layer.finds_scales)
        return tuple(name for name in needed if getattr(layer, name) is None)

    def scaled_weights(self, node: ir.Node, *, by_row: bool) -> dict[str, list[ScaledWeight]]:
        """The weights that each of `weight_scales` lists, in the list's order.

        Args:
            node: A node of the exported graph.
            by_row: One scale a row where the operator has the choice, rather than one a tensor.
        """
        return {}

    def typed_weights(self, node: ir.Node) -> list[ir.Value]:
        """The weights that are stored in the layer's `weight` type, where plans may narrow them."""
        return [part.value for parts in self.scaled_weights(node, by_row=False).values() for part in parts]

    def cache_values(self, node: ir.Node) -> list[tuple[Cache, ir.Value, ir.Value]]:
        """The caches that a node has, each with its input and output."""
        found = [
            (cache, self.input(node, cache.input), self.output(node, cache.output)) for cache in self.caches
        ]
        return [
            (cache, given, made) for cache, given, made in found if given is not None and made is not None
        ]


def _choices(names: Sequence[str | None]) -> str:
    return " or ".join("nothing" if name is None else name for name in names)
