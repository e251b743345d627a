"""The steps that every training here takes: AdamW, a warm-up, a cosine down to 0, clipped gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

WARMUP_STEPS, DECAY, CLIP = 100, 0.1, 1.0


@torch.no_grad()
def quiet_layers(module: nn.Module, num_layers: int) -> None:
    """Has each layer of fresh weights add less the more there are: the residual stream keeps its size."""
    for name, parameter in module.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.mul_(1 / math.sqrt(2 * num_layers))


@torch.no_grad()
def scale_fresh_weights(module: nn.Module, num_layers: int, hidden_size: int) -> None:
    """Fresh weights of a language model as they train well."""
    quiet_layers(module, num_layers)
    for name, parameter in module.named_parameters():
        if name.endswith("embed_tokens.weight"):
            parameter.mul_(math.sqrt(hidden_size) / 2)  # else the layers drown the embedding


def optimizer_of(module: nn.Module) -> torch.optim.AdamW:
    """AdamW on all weights of a module; norms and biases do not decay."""
    weights = list(module.parameters())
    decayed, others = [p for p in weights if p.ndim > 1], [p for p in weights if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=True)


def rate_at(highest: float, step: int, done: float, warmup_steps: int = WARMUP_STEPS) -> float:
    """The learning rate of a step: linear at first, then a cosine down to 0.

    Args:
        highest: The highest rate.
        step: Index of the step.
        done: How much of the schedule is over, 0 to 1.
        warmup_steps: How many steps the linear part has.
    """
    warm = min(1.0, (step + 1) / warmup_steps)
    return highest * warm * 0.5 * (1 + math.cos(math.pi * done))


def descend(loss: Tensor, module: nn.Module, optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Takes one step down the gradient of a loss, which may be clipped, at a learning rate."""
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(module.parameters(), CLIP)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long a training is, and how fast.

    Attributes:
        steps: How many.
        learning_rate: The highest.
        warmup_steps: Steps until then.
    """

    steps: int
    learning_rate: float
    warmup_steps: int = WARMUP_STEPS


def train(module: nn.Module, loss_at: Callable[[int], Tensor], schedule: Schedule) -> None:
    """Trains a module in place; `loss_at` computes the loss of a step, a scalar with gradients."""
    optimizer = optimizer_of(module)
    for step in range(schedule.steps):
        rate = rate_at(schedule.learning_rate, step, step / schedule.steps, schedule.warmup_steps)
        descend(loss_at(step), module, optimizer, rate)
