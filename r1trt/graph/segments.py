"""A graph cut along its residual stream: embedding, one piece a decoder layer, head.

A piece is small enough to be typed, loaded and run by itself: a model can be looked at layer by layer.

Legend: S tokens of one call, D hidden size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from r1trt.errors import ExportError
from r1trt.graph.interface import INPUT_IDS

_LAYER_RESULT = re.compile(r"^model\.layers\.\d+\.mlp_residual$")
_EMBEDDING = "model.embed_tokens"
EMBEDDING, HEAD = "embedding", "head"
_LOGITS_RANK = 3  # [B, S, V]


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One piece.

    Attributes:
        name: "embedding", "model.layers.3", "head".
        model: Its graph, whose weights are the whole graph's, unread.
        input: Name of what it gets: token ids, then the residual stream, FLOAT [1, S, D].
        output: Name of what it gives: the residual stream, and in the end logits.
    """

    name: str
    model: ir.Model
    input: str
    output: str

    def layer_names(self) -> frozenset[str]:
        """Names of its nodes."""
        return frozenset(str(node.name) for node in self.model.graph)


def segments_of_model(model: ir.Model) -> list[Segment]:
    """Cut a scoring graph, one without a cache, into its pieces.

    Args:
        model: The graph; its operators are calls without bodies. It is left as it is.

    Raises:
        ExportError: The graph's layers are not named as an export names them, or it gives the last token's
            logits alone.
    """
    logits = model.graph.outputs[0]
    if logits.shape is None or len(logits.shape) != _LOGITS_RANK:
        raise ExportError(
            "This export gives the logits of the last token alone, which says little of a precision.",
            where=model.graph.name,
            found=f"logits {logits.shape}",
            fix="export the checkpoint again without --last-token-logits",
        )
    cuts = list(_cuts(model.graph))
    if len(cuts) < 2:
        raise ExportError(
            "The graph cannot be cut into its layers.",
            where=model.graph.name,
            found="no nodes 'model.embed_tokens' and 'model.layers.N.mlp_residual'",
            fix="export the checkpoint again with this version",
        )
    names = [EMBEDDING, *(str(node.name).removesuffix(".mlp_residual") for node in cuts[1:]), HEAD]
    values = [INPUT_IDS, *(str(node.outputs[0].name) for node in cuts), str(model.graph.outputs[0].name)]
    return [
        _segment(model, name, given, made)
        for name, given, made in zip(names, values[:-1], values[1:], strict=True)
    ]


def _cuts(graph: ir.Graph) -> Iterator[ir.Node]:
    for node in graph:
        if node.name == _EMBEDDING or _LAYER_RESULT.match(str(node.name)):
            yield node


def layer_results(graph: ir.Graph) -> list[ir.Value]:
    """The residual stream behind each decoder layer, FLOAT [B, S, D]."""
    return [node.outputs[0] for node in _cuts(graph) if node.name != _EMBEDDING]


def extracted(model: ir.Model, given: str, made: Sequence[str]) -> ir.Model:
    """The part of a graph that computes some values from another one, as a graph of its own.

    Args:
        model: The graph, which is left as it is.
        given: The value that takes the place of `input_ids`; of the other inputs, those that are read stay.
        made: Its outputs.
    """
    others = [str(value.name) for value in model.graph.inputs if value.name != INPUT_IDS]
    graph = ir.convenience.extract(model.graph, [given, *others], list(made))
    for value in [value for value in graph.inputs if value.name != given and not value.uses()]:
        graph.inputs.remove(value)
    graph.opset_imports.update(model.graph.opset_imports)
    return ir.Model(graph, ir_version=model.ir_version)


def _segment(model: ir.Model, name: str, given: str, made: str) -> Segment:
    return Segment(name=name, model=extracted(model, given, [made]), input=given, output=made)
