"""A parsed network's layers, grouped by the plan's keys: what the builder was given, in the plan's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from r1trt.data_types import OF_TENSORRT
from r1trt.graph.edit import CAST_OUTPUT

# A layer as `r1trt.build.read_back` reads it: name, type, node, and name and type of each input and output.
NetworkLayer = Mapping[str, Any]
Types = Mapping[str, str]

# They hand on what they get; a transposed or reshaped dequantization still feeds an FP8 product.
_TRANSPARENT = frozenset({"SHUFFLE", "UNSQUEEZE", "SQUEEZE", "IDENTITY"})
_PRODUCT = "MATRIX_MULTIPLY"


class ReadBack(NamedTuple):
    """Types of a layer by part: what the plan asks for, and what the network has."""

    asked: Types
    found: Types


class LayerParts:
    """The network's layers that come from one node of the graph, in the network's order."""

    def __init__(self, parts: Sequence[NetworkLayer], producers: Mapping[str, NetworkLayer]) -> None:
        self.parts = list(parts)
        self._producers = producers

    @property
    def plugin(self) -> NetworkLayer | None:
        """The plugin that computes the node, if one does."""
        return next((part for part in self.parts if part["type"].startswith("PLUGIN")), None)

    def of_type(self, *types: str) -> list[NetworkLayer]:
        """Those of some of TensorRT's layer types."""
        return [part for part in self.parts if part["type"] in types]

    def outputs(self, *types: str) -> str:
        """Result types of the layers of these types."""
        return joined([output_type(part) for part in self.of_type(*types)])

    @property
    def last_output(self) -> str:
        """Result type of the last layer."""
        return joined([output_type(part) for part in self.parts[-1:]])

    @property
    def products(self) -> list[NetworkLayer]:
        """The matrix products."""
        return self.of_type(_PRODUCT)

    def product_types(self, products: Sequence[NetworkLayer]) -> Types:
        """Types of both operands and of the result."""
        sides = [[self._operand(tensor) for tensor in product["inputs"][:2]] for product in products]
        return {
            "input": joined([side[0] for side in sides]),
            "weight": joined([side[1] for side in sides]),
            "output": joined([output_type(product) for product in products]),
        }

    def _operand(self, tensor: Sequence[str]) -> str:
        """Type that a product reads: the quantized one where a dequantization stands in front of it."""
        name, dtype = tensor
        producer = self._producers.get(name)
        if producer is None:
            return type_name(dtype)
        if producer["type"] in _TRANSPARENT:
            return self._operand(producer["inputs"][0])
        if producer["type"] == "DEQUANTIZE":
            return type_name(producer["inputs"][0][1])
        return type_name(dtype)


class NetworkView:
    """A whole network by the plan's keys."""

    def __init__(self, layers: Sequence[NetworkLayer], keys: Sequence[str]) -> None:
        self._producers = {name: layer for layer in layers for name, _ in layer["outputs"]}
        self._by_key: dict[str, list[NetworkLayer]] = {key: [] for key in keys}
        for layer in layers:
            key = plan_key(layer["node"], self._by_key)
            if key is not None and not str(layer["node"]).startswith(f"{key}/{CAST_OUTPUT}"):
                self._by_key[key].append(layer)

    def parts(self, key: str) -> LayerParts:
        """The layers that a plan's layer became, without the casts behind it: they serve its users."""
        return LayerParts(self._by_key[key], self._producers)


def plan_key(node: str | None, keys: Mapping[str, object]) -> str | None:
    """The plan's key that a node belongs to: its own name, or a prefix up to a "/"."""
    while node:
        if node in keys:
            return node
        node = node.rpartition("/")[0]
    return None


def type_name(dtype: str) -> str:
    """A network's type in the plan's words."""
    return OF_TENSORRT[dtype].name if dtype in OF_TENSORRT else dtype.lower()


def output_type(layer: NetworkLayer) -> str:
    """Type of a layer's first result."""
    return type_name(layer["outputs"][0][1])


def joined(types: Sequence[str]) -> str:
    """Distinct types as one text; "nothing" where there is none."""
    return " and ".join(sorted(set(types))) or "nothing"
