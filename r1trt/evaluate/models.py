"""What can be compared: anything that gives logits for token ids.

Legend: T tokens of one window, V vocabulary, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from r1trt.runtime.prefill import prefill_outputs
from r1trt.runtime.session import LOGITS, Outputs, Session

Model = Callable[[npt.NDArray[np.int64]], Outputs]
"""Reads one window, token ids int64 [T], from an empty cache. Returns FLOAT logits [T, V] under `LOGITS`, and
the results of its layers [T, D] by name where it has them; none of these arrays is written to afterwards."""


def layer_output(layer: int) -> str:
    """Name of a layer's result, the residual stream after it, as its node in an exported graph is named."""
    return f"model.layers.{layer}.mlp_residual"


def model_from_session(session: Session) -> Model:
    """A loaded graph or engine, with the outputs that it was loaded with.

    Args:
        session: Stays the caller's to close.
    """
    # A graph that gives the last token's logits gives all of them when every call is one token.
    chunk = 1 if session.limits.last_token_logits else None

    def run(input_ids_T: npt.NDArray[np.int64]) -> Outputs:
        whole: Outputs = {}
        for start, seq_len_B, outputs in prefill_outputs(session, [input_ids_T.tolist()], chunk):
            S = int(seq_len_B[0])
            for name, array in outputs.items():
                rows = whole.setdefault(name, np.empty((len(input_ids_T), array.shape[-1]), np.float32))
                rows[start : start + S] = array[0, :S]
        return whole

    return run


__all__ = ["LOGITS", "Model", "Outputs", "layer_output", "model_from_session"]
