"""Random checkpoints of DeepSeek-R1's form, as they are published, and what transformers makes of them."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from r1trt.estimate.known_models import KNOWN_MODELS

TOKENS = 96
SEED = 0
YARN: dict[str, Any] = {
    key: value for key, value in KNOWN_MODELS["r1-671b"]["rope_scaling"].items() if key != "type"
}
SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_shared_experts": 1,
    "n_group": 8,
    "topk_group": 4,
    "num_experts_per_tok": 8,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "q_lora_rank": 48,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "max_position_embeddings": 163840,
    "rms_norm_eps": 1e-6,
}
PUBLISHED = {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "torch_dtype": "float32"}


def prompt() -> np.ndarray:
    """Token ids [1,S]."""
    return np.random.default_rng(SEED).integers(0, SIZES["vocab_size"], (1, TOKENS))


def write_deepseek(directory: Path, *, experts: int) -> tuple[Path, np.ndarray]:
    """Writes a checkpoint; returns it, and transformers' logits [S,V] of the prompt in FP32.

    Weights have variance 1 / fan-in, so that neither logits nor routing are degenerate.
    """
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    torch.manual_seed(SEED)
    rope = {"rope_type": "yarn", "rope_theta": 10000.0, **YARN}
    config: Any = DeepseekV3Config(**SIZES, n_routed_experts=experts, rope_parameters=rope)
    model: Any = DeepseekV3ForCausalLM(config)
    model.eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
            elif name.endswith("e_score_correction_bias"):
                parameter.uniform_(-0.05, 0.05)
        logits = model(torch.from_numpy(prompt())).logits[0]
    model.save_pretrained(directory)
    _spell_as_published(directory / "config.json")
    return directory, np.asarray(logits.double().numpy())


def _spell_as_published(path: Path) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("rope_parameters", None)
    config |= {"rope_theta": 10000.0, "rope_scaling": {"type": "yarn", **YARN}, **PUBLISHED}
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")


def with_stacked_experts(checkpoint: Path, directory: Path) -> Path:
    """The same checkpoint with one tensor for all experts' gate and up projections, and one for down."""
    shutil.copytree(checkpoint, directory)
    kept: dict[str, Tensor] = {}
    experts: dict[str, dict[tuple[int, str], Tensor]] = defaultdict(dict)
    for name, tensor in load_file(directory / "model.safetensors").items():
        layer, marker, rest = name.partition(".experts.")
        if not marker:
            kept[name] = tensor
            continue
        index, projection, _ = rest.split(".")
        experts[layer][int(index), projection] = tensor
    for layer, found in experts.items():
        count = 1 + max(index for index, _ in found)
        pairs = [torch.cat([found[i, "gate_proj"], found[i, "up_proj"]]) for i in range(count)]
        kept[f"{layer}.experts.gate_up_proj"] = torch.stack(pairs)
        kept[f"{layer}.experts.down_proj"] = torch.stack([found[i, "down_proj"] for i in range(count)])
    save_file(kept, directory / "model.safetensors", {"format": "pt"})
    return directory
