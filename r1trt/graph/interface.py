"""Names that graphs, plans and sessions share."""

from __future__ import annotations

HEAD = "lm_head"
"""The product with the vocabulary: a node, and a layer of every plan."""
LOGITS = "logits"
"""Name of the output that every model has; a session may give further ones."""
ONLY_LAST = "only_last_logits"
"""Of graphs for ONNX Runtime, an input with a default, false: logits of each row's last real token alone."""
