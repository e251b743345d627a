"""Writes a checkpoint with random weights and a known model's shape, to time engines with.

    python scripts/make_random.py qwen2-1.5b -o build/Qwen2-1.5B-shape
    python scripts/make_random.py deepseek-v2-lite-small -o build/DeepSeek-V2-Lite-small

The second is DeepSeek-V2-Lite with half the width, heads, experts and their width, and 8 of 27 layers: 487
million parameters, of which a token meets 165 million.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from random_checkpoint import CONFIG, make_checkpoint

SMALL_DEEPSEEK: dict[str, Any] = {
    "vocab_size": 32000, "hidden_size": 1024, "num_hidden_layers": 8, "max_position_embeddings": 4096,
    "intermediate_size": 4096, "first_k_dense_replace": 1,
    "n_routed_experts": 32, "n_shared_experts": 2, "num_experts_per_tok": 6, "moe_intermediate_size": 512,
    "topk_method": "greedy", "scoring_func": "softmax", "norm_topk_prob": False, "routed_scaling_factor": 1.0,
    "n_group": 1, "topk_group": 1,
    "num_attention_heads": 8, "num_key_value_heads": 8, "q_lora_rank": None, "kv_lora_rank": 512,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
}  # fmt: skip


def _deepseek(directory: Path) -> None:
    import torch
    from transformers import DeepseekV2Config, DeepseekV2ForCausalLM

    torch.manual_seed(0)
    config = DeepseekV2Config(**SMALL_DEEPSEEK)
    DeepseekV2ForCausalLM(config).bfloat16().save_pretrained(directory)


SHAPES: dict[str, Callable[[Path], None]] = {
    "qwen2-1.5b": lambda directory: make_checkpoint(directory, CONFIG["num_hidden_layers"]),
    "deepseek-v2-lite-small": _deepseek,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    SHAPES[options.shape](options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
