"""What graphs for ONNX Runtime have beside the interface that all graphs share."""

from __future__ import annotations

ONLY_LAST = "only_last_logits"
"""Input with a default, false: whether logits are given for each row's last real token alone, `[B, 1, V]`."""
