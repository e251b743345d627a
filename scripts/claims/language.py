"""Small byte-level language models on the code of the standard library: how they are made and trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from train_r1_asa import BALANCE, Balance, TrainedAttention, modules, split_documents
from training_loop import Schedule, scale_fresh_weights, train

from claims.dense import CausalAttention
from claims.text_loss import loss_of
from r1trt.config import GqaConfig
from r1trt.families import model_config_from_dict
from r1trt.model import R1AsaForCausalLM
from r1trt.model.moe import Router

VOCABULARY = 272  # bytes, both ends of a document, padding
_STEP_SEEDS = 1_000_003


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """A model and its training.

    Attributes:
        hidden_size: Width of the residual stream.
        num_layers: Decoder layers.
        num_heads: Query heads; half as many key/value heads.
        more: Keys of an R1-ASA's config.json: experts, or the width of a dense MLP.
        steps: Steps of the training.
        learning_rate: Its highest.
        warmup_steps: Steps until then.
        batch: Sequences of a step.
        length: Bytes of a sequence, in training and in evaluation.
        heldout_bytes: Of the text that is evaluated.
    """

    more: Mapping[str, Any] = field(default_factory=dict)
    hidden_size: int = 128
    num_layers: int = 2
    num_heads: int = 4
    steps: int = 400
    learning_rate: float = 3e-3
    warmup_steps: int = 40
    batch: int = 8
    length: int = 256
    heldout_bytes: int = 1 << 15

    @property
    def raw(self) -> dict[str, Any]:
        """The model as a config.json has it; R1-ASA without a gate where `more` says nothing else."""
        return {
            "architectures": ["R1AsaForCausalLM"],
            "model_type": "r1_asa",
            "vocab_size": VOCABULARY,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_layers,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": max(1, self.num_heads // 2),
            "head_dim": self.hidden_size // self.num_heads,
            "hla_gate": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "rope_temperature_alpha": 0.0,
            "max_position_embeddings": 2 * self.length,
            **self.more,
        }


def dense_keys(width: int, num_layers: int) -> dict[str, Any]:
    """Keys of config.json for dense MLPs in every layer; those of experts are there, and not used."""
    unused = {"num_experts": 1, "top_k": 1, "moe_intermediate_size": 16}
    return {"first_k_dense_replace": num_layers, "intermediate_size": width, **unused}


def language_model(config: LanguageConfig, seed: int) -> R1AsaForCausalLM:
    """Makes a model with fresh weights of a seed, and attention that trains fast."""
    torch.manual_seed(seed)
    parsed = model_config_from_dict(config.raw, where=Path("config.json"))
    module = R1AsaForCausalLM(parsed)
    for index, layer in enumerate(module.model.layers):
        attention = parsed.layers[index].attention
        gated = isinstance(attention, GqaConfig) and attention.hla.gate
        layer.self_attn = (TrainedAttention if gated else CausalAttention)(parsed, index)
    module.initialize()
    scale_fresh_weights(module, config.num_layers, config.hidden_size)
    return module


@cache
def code_text() -> tuple[Tensor, Tensor]:
    """Token ids of the standard library's modules: what is trained on, and whole modules held out."""
    return split_documents(list(modules()))


def trained_model(config: LanguageConfig, seed: int) -> R1AsaForCausalLM:
    """Trains a model; weights, order of the text and result hang on the seed alone."""
    module, (text, _) = language_model(config, seed), code_text()
    routers = [part for part in module.modules() if isinstance(part, Router)]

    def loss_at(step: int) -> Tensor:
        ids, balance = _batch(text, config, seed * _STEP_SEEDS + step), Balance()
        hooks = [router.register_forward_hook(balance) for router in routers]
        loss = loss_of(module, ids)
        for hook in hooks:
            hook.remove()
        return loss + BALANCE * torch.stack(balance.losses).sum() if routers else loss

    train(
        module,
        loss_at,
        Schedule(steps=config.steps, learning_rate=config.learning_rate, warmup_steps=config.warmup_steps),
    )
    return module.eval()


def _batch(text: Tensor, config: LanguageConfig, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(text) - config.length - 1, (config.batch,), generator=generator).tolist()
    return torch.stack([text[start : start + config.length + 1] for start in starts]).long()


@torch.no_grad()
def predictions(module: R1AsaForCausalLM, config: LanguageConfig) -> tuple[Tensor, Tensor]:
    """What a model makes of the held-out text, window by window.

    Returns:
        Loss of each byte in bits `[T]`, and the entropy of its prediction in bits `[T]`.
    """
    _, heldout = code_text()
    losses, entropies = [], []
    for ids in windows(heldout[: config.heldout_bytes], config):
        logs = module(ids[:, :-1]).log_softmax(-1).flatten(0, 1)
        losses.append(F.nll_loss(logs, ids[:, 1:].flatten(), reduction="none"))
        entropies.append(-(logs.exp() * logs).sum(-1))
    return torch.cat(losses) / math.log(2), torch.cat(entropies) / math.log(2)


def windows(text: Tensor, config: LanguageConfig) -> list[Tensor]:
    """Windows of a text in batches `[B, length + 1]`; each starts with an empty cache."""
    count = (len(text) - 1) // config.length
    starts = torch.arange(count)[:, None] * config.length
    rows = text.long()[starts + torch.arange(config.length + 1)]
    return [rows[at : at + config.batch] for at in range(0, len(rows), config.batch)]
