"""Names that graphs, plans and sessions share."""

from __future__ import annotations

HEAD = "lm_head"
"""The product with the vocabulary: a node, and a layer of every plan."""
LOGITS = "logits"
"""Name of the output that every model has; a session may give further ones."""
ONLY_LAST = "only_last_logits"
"""Of graphs for ONNX Runtime, an input with a default, false: logits of each row's last real token alone."""
INPUT_IDS = "input_ids"
"""Token ids [B, S]: what a whole model, and the first of its parts, begins with."""
HIDDEN_IN, HIDDEN_OUT = "hidden_in", "hidden_out"
"""Of a part of a model: the residual stream [B, S, D] in FLOAT that it gets, and that it hands on."""
