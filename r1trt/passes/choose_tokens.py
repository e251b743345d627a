"""A graph that gives logits of all tokens, or where a call says so of each row's last one alone.

Legend: B batch, S tokens of this call, T tokens whose logits are given, D hidden size, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from r1trt.graph.edit import Emitter, dims_of, register
from r1trt.graph.interface import HEAD, LOGITS, ONLY_LAST

_INT64 = ir.DataType.INT64


class ChooseTokensPass(ir.passes.InPlacePass):
    """Puts a choice of tokens in front of the head; its operator is not a plan's, so that no plan changes.

    A graph that gives the last token's logits anyway, or whose head is another one, stays as it is.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The choice is an input with a default: a caller that says nothing gets all logits."""
        graph = model.graph
        head = next((node for node in graph if node.name == HEAD), None)
        seq_len = next((value for value in graph.inputs if value.name == "seq_len"), None)
        if head is None or seq_len is None or not _gives_all(graph, head):
            return ir.passes.PassResult(model, False)
        x, logits = head.inputs[0], head.outputs[0]
        assert x is not None
        head.replace_input_with(0, _chosen(head, x, seq_len))
        logits.shape = ir.Shape([dims_of(logits)[0], "T", dims_of(logits)[2]])
        return ir.passes.PassResult(model, True)


def _gives_all(graph: ir.Graph, head: ir.Node) -> bool:
    """Whether the head's result [B,S,V] is what the graph gives."""
    logits = head.outputs[0]
    return logits.name == LOGITS and logits in graph.outputs and len(dims_of(logits)) == 3


def _chosen(head: ir.Node, x: ir.Value, seq_len: ir.Value) -> ir.Value:
    """X [B,S,D] -> [B,T,D]: T is S, or 1 where only the last real tokens count."""
    emit, batch = Emitter(head, f"{HEAD}.tokens"), dims_of(x)[0]
    only_last = register(emit.graph, ir.tensor(np.array(False), name=ONLY_LAST))
    emit.graph.inputs.append(only_last)
    zero, one = (emit.constant(f"{n}", np.array(n, np.int64)) for n in (0, 1))
    axes = {n: emit.constant(f"axes.{n}", np.array([n], np.int64)) for n in (1, 2)}
    size = emit.node("Shape", "Size", [x], _INT64, (1,), {"start": 1, "end": 2})
    size = emit.node("Squeeze", "All", [size], _INT64, ())
    count = emit.node("Where", "Count", [only_last, one, size], _INT64, ())
    # NOTES: distances backward: an Add of the main graph would be a layer of the plan.
    before = emit.node("Sub", "Before", [one, seq_len], _INT64, (batch,))
    last = emit.node("Min", "Last", [before, zero], _INT64, (batch,))
    first = emit.node("Where", "First", [only_last, last, zero], _INT64, (batch,))
    step = emit.node("Range", "Steps", [zero, count, one], _INT64, ("T",))
    column = emit.node("Unsqueeze", "Column", [first, axes[1]], _INT64, (batch, 1))
    index = emit.node("Sub", "Index", [step, column], _INT64, (batch, "T"))
    index = emit.node("Unsqueeze", "Indices", [index, axes[2]], _INT64, (batch, "T", 1))
    assert x.dtype is not None
    shape = (batch, "T", dims_of(x)[2])
    return emit.node("GatherND", "Chosen", [x, index], x.dtype, shape, {"batch_dims": 1})
