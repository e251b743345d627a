"""An exported graph cut into consecutive layers, each piece with the interface of a part.

Legend: B batch, S tokens of this call, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from r1trt.errors import ExportError
from r1trt.families.tensors import place_of_name
from r1trt.graph.interface import HIDDEN_IN, HIDDEN_OUT, INPUT_IDS, LOGITS
from r1trt.graph.segments import extracted, layer_results


def part_graphs(model: ir.Model, ends: Sequence[int]) -> list[ir.Model]:
    """Cut a graph behind some of its layers.

    Args:
        model: Exported graph; it is left as it is, and its weights are shared with the pieces, unread.
        ends: The last layer of each part, ascending; the last of them is the model's.

    Returns:
        A graph for each part: `input_ids` or `hidden_in` [B,S,D], `seq_len`, `past_len` and its own layers'
        caches to `logits` or `hidden_out` [B,S,D] and these caches. Its operators have no bodies.

    Raises:
        ExportError: The graph's layers are not named as an export names them.
    """
    results = layer_results(model.graph)
    if list(ends) != sorted(set(ends)) or not ends or ends[-1] != len(results) - 1:
        raise ExportError(
            "The graph cannot be cut there.",
            where=model.graph.name,
            found=f"parts that end with the layers {list(ends)}, of {len(results)} layers",
            expected="ascending numbers, the last that of the last layer",
            fix="export the checkpoint again with this version",
        )
    starts = [0, *(end + 1 for end in ends[:-1])]
    return [_part(model, results, start, end) for start, end in zip(starts, ends, strict=True)]


def _part(model: ir.Model, results: Sequence[ir.Value], start: int, end: int) -> ir.Model:
    given = INPUT_IDS if start == 0 else str(results[start - 1].name)
    is_last = end == len(results) - 1
    made = LOGITS if is_last else str(results[end].name)
    piece = extracted(model, given, [made, *_caches(model.graph, start, end)])
    (entered,) = (value for value in piece.graph.inputs if value.name == given)
    if start:
        entered.name = HIDDEN_IN
    if not is_last:
        piece.graph.outputs[0].name = HIDDEN_OUT
    piece.graph.inputs.remove(entered)
    piece.graph.inputs.insert(0, entered)
    return piece


def _caches(graph: ir.Graph, start: int, end: int) -> list[str]:
    """Names of the outputs that are the caches of some layers, in the graph's order."""
    found = []
    for value in graph.outputs:
        node = value.producer()
        place = None if node is None else place_of_name(str(node.name))
        if value.name != LOGITS and place is not None and start <= place[0] <= end:
            found.append(str(value.name))
    return found
