"""Where a node stands in a model: its layer, the kind of layer, and its name there."""

from __future__ import annotations

from dataclasses import dataclass

from r1trt.config import ModelConfig, MoeConfig
from r1trt.export.head import TABLE
from r1trt.families.tensors import place_of_name
from r1trt.graph.interface import HEAD
from r1trt.profile.options import Breakdown

LAYER = "layer"
OTHER = "other"
"""What belongs to no layer of a plan: lengths, reshapes, casts."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A node's place.

    Attributes:
        layer: Index of its decoder layer; None for the two ends of the model.
        layer_type: "attention", "moe", "dense mlp", "norm", "residual", "embedding", "head", or "other".
        module: Its name in the layer, or in the model for the two ends.
    """

    layer: int | None
    layer_type: str
    module: str

    def row(self, breakdown: Breakdown, operator: str, part: str = "") -> str:
        """Name of the row that counts it.

        Args:
            breakdown: What rows are.
            operator: Its operator's name.
            part: Its part of the operator; "" for all of it.
        """
        match breakdown:
            case "layer_type":
                return self.layer_type
            case "layer":
                return self.layer_type if self.layer is None else f"{LAYER} {self.layer}"
            case "operator":
                return operator
            case "part":
                return f"{self.module}: {part}" if part else self.module


def place_of_node(name: str, config: ModelConfig) -> Place:
    """Place of a node by its name, with or without what stands behind a "/".

    Args:
        name: A node's name in the real model.
        config: The model.
    """
    found = place_of_name(name.partition("/")[0])
    if found is None or found[0] >= config.num_layers:
        return _end_of_model(name.partition("/")[0])
    layer, module = found
    block = module.partition(".")[0]
    if block == "self_attn":
        layer_type = "attention"
    elif block == "mlp":
        layer_type = "moe" if isinstance(config.layers[layer].mlp, MoeConfig) else "dense mlp"
    else:
        layer_type = "residual" if block.endswith("_residual") else "norm"
    return Place(layer=layer, layer_type=layer_type, module=module)


def _end_of_model(name: str) -> Place:
    types = {TABLE: "embedding", HEAD: "head", "model.norm": "norm"}
    return Place(layer=None, layer_type=types.get(name, OTHER), module=name if name in types else OTHER)
