"""A model's graph with one layer of each kind: as many nodes as there are kinds, each with a count.

What a layer costs and holds follows from its configuration, so that equal layers are computed once; a model
of 61 layers with 256 experts each takes no longer than its two kinds of layers.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from r1trt.checkpoint import TensorRef
from r1trt.config import SCALE_SUFFIXES, LayerConfig
from r1trt.estimate.source import SizedModel
from r1trt.export.decoder import emit_decoder
from r1trt.export.graph import GraphEmitter
from r1trt.families import expected_tensors
from r1trt.families.tensors import LAYER, place_of_name
from r1trt.ops.operator import IR_VERSION


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A graph that stands for a larger one.

    Attributes:
        model: The graph, as an export writes it; no byte of its weights is read.
        layers: Which layers of the real model each of its decoder layers stands for.
        capacity: Rows of the KV cache in tokens.
    """

    model: ir.Model
    layers: tuple[tuple[int, ...], ...]
    capacity: int

    def count(self, name: str | None) -> int:
        """How many nodes or weights of the real model one of this name stands for."""
        place = place_of_name(name or "")
        return 1 if place is None else len(self.layers[place[0]])

    def real_names(self, name: str) -> list[str]:
        """Names of the real model's nodes or weights that one of this name stands for."""
        place = place_of_name(name)
        if place is None:
            return [name]
        index, rest = place
        return [LAYER.format(layer=layer) + rest for layer in self.layers[index]]


def sample_of_model(
    model: SizedModel, capacity: int, *, last_token_logits: bool = False, marks: Sequence[Hashable] = ()
) -> Sample:
    """Emits the graph of a model's kinds of layers.

    Args:
        model: The model.
        capacity: Rows of the KV cache in tokens.
        last_token_logits: Compute the logits of each sequence's last token only.
        marks: One for each layer; layers of different marks are of different kinds, equal as they may be.
    """
    kinds: dict[tuple[LayerConfig, Hashable], list[int]] = {}
    for index, layer in enumerate(model.config.layers):
        kinds.setdefault((layer, marks[index] if marks else None), []).append(index)
    config = replace(model.config, layers=tuple(layer for layer, _ in kinds))
    tensors = _tensors(model, [layers[0] for layers in kinds.values()], expected_tensors(config))
    locations = {tensor.file: tensor.file for tensor in tensors.values()}
    emitter = GraphEmitter(config.family, tensors, locations)
    emit_decoder(emitter, config, capacity, last_token_logits=last_token_logits)
    return Sample(
        model=ir.Model(emitter.graph, ir_version=IR_VERSION),
        layers=tuple(map(tuple, kinds.values())),
        capacity=capacity,
    )


def _tensors(
    model: SizedModel, layers: Sequence[int], names: Mapping[str, tuple[int, ...]]
) -> dict[str, TensorRef]:
    """The sample's tensors and scales: those of the first layer of each kind, under the sample's names."""
    prefixes = [(LAYER.format(layer=index), LAYER.format(layer=layer)) for index, layer in enumerate(layers)]
    found = {}
    for name in names:
        original = next((old + name[len(new) :] for new, old in prefixes if name.startswith(new)), name)
        found[name] = replace(model.tensors[original], name=name)
        for suffix in SCALE_SUFFIXES:
            if scales := model.scales.get(f"{original}{suffix}"):
                found[f"{name}{suffix}"] = replace(scales, name=f"{name}{suffix}")
    return found
