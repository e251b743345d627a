"""PyTorch reference of R1-ASA: the definition, trainable, and the oracle of every later stage.

Shape suffixes: B batch, S tokens of a call, T = B * S tokens, L keys, C cache capacity, H query heads, N
key/value heads, G query heads of a key/value head, d head size, D hidden size, E experts, K = top_k, V
vocabulary.

Any float dtype works. Router, lambda gate, norms, softmax and RoPE angles are computed in FP32 when the
module is in a lower precision, and in FP64 when it is in FP64.
"""

from __future__ import annotations

from r1trt.model.attention import KvCache
from r1trt.model.decisions import Decisions, recorded_decisions
from r1trt.model.decoder import R1AsaForCausalLM
from r1trt.model.io import load_checkpoint, save_checkpoint
from r1trt.model.moe import Routing

__all__ = [
    "Decisions",
    "KvCache",
    "R1AsaForCausalLM",
    "Routing",
    "load_checkpoint",
    "recorded_decisions",
    "save_checkpoint",
]
