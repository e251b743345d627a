"""The two ends of a decoder: token ids to the residual stream, and the residual stream to logits.

Legend: B batch, S tokens of this call, D hidden size, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from r1trt.export.forward import FLOAT, INT64, Forward, linear, rms_norm
from r1trt.graph.interface import HEAD
from r1trt.ops.embedding import EMBEDDING

TABLE = "model.embed_tokens"


def embedding(forward: Forward, input_ids: ir.Value) -> ir.Value:
    """Emit the embedding of token ids [B,S]; gives [B,S,D]."""
    shape = ("B", "S", forward.model.hidden_size)
    inputs = {"ids": input_ids, "w": forward.emit.weight(f"{TABLE}.weight")}
    return forward.emit.operator(EMBEDDING, TABLE, inputs, [(FLOAT, shape)])[0]


def head(forward: Forward, x: ir.Value) -> ir.Value:
    """Emit final norm and head for x [...,D]; gives logits [...,V]."""
    weight = f"{TABLE}.weight" if forward.model.tie_word_embeddings else "lm_head.weight"
    return linear(forward.emit, HEAD, rms_norm(forward, "model.norm", x), weight=weight)


def last_token(forward: Forward, x: ir.Value) -> ir.Value:
    """Emit the row of each sequence's last real token, [B,D]; row 0 where a sequence has none."""
    emit = forward.emit
    zero, one = (emit.constant(f"int64.{n}", np.array(n, np.int64)) for n in (0, 1))
    axis = emit.constant("axes.1", np.array([1], np.int64))
    (previous,) = emit.node("Sub", "last_token.previous", [forward.seq_len, one], [(INT64, ("B",))])
    (index,) = emit.node("Max", "last_token.index", [previous, zero], [(INT64, ("B",))])
    (column,) = emit.node("Unsqueeze", "last_token.column", [index, axis], [(INT64, ("B", 1))])
    row = [(FLOAT, ("B", forward.model.hidden_size))]
    return emit.node("GatherND", "last_token.row", [x, column], row, {"batch_dims": 1})[0]
