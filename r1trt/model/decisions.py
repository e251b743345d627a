"""Records a forward pass's discontinuous decisions, so that comparisons can leave out near ties."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from r1trt.model.attention import LambdaGate, gqa_of_layer
from r1trt.model.decoder import R1AsaForCausalLM
from r1trt.model.moe import Router, Routing


@dataclass(kw_only=True)
class Decisions:
    """What one forward pass decided, by layer.

    Attributes:
        routing: Per layer with experts. `T` counts the tokens that are not padding, row by row.
        lam: Per layer with a gate, `[B, S, H]` before `lam_skip`.
        valid_BS: False for padding.
        lam_skip: Per layer with a gate.
    """

    routing: dict[int, Routing] = field(default_factory=dict)
    lam: dict[int, Tensor] = field(default_factory=dict)
    valid_BS: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bool))
    lam_skip: dict[int, float] = field(default_factory=dict)

    def margin_BS(self) -> Tensor:
        """Distance of every token to its nearest tie in any layer; infinite for padding."""
        margin = torch.full(self.valid_BS.shape, math.inf, dtype=torch.float64)
        for routing in self.routing.values():
            margin[self.valid_BS] = margin[self.valid_BS].minimum(routing.margin_T.double())
        for layer, lam in self.lam.items():
            skip = self.lam_skip[layer]
            if skip > 0:
                near_zero, near_one = (lam - skip).abs(), (lam - (1 - skip)).abs()
                distance = near_zero.minimum(near_one).amin(-1).double()
                margin = margin.minimum(distance.masked_fill(~self.valid_BS, math.inf))
        return margin


def _store(store: dict[int, Any], layer: int, module: nn.Module, args: Any, output: Any) -> None:
    store[layer] = output


@contextmanager
def recorded_decisions(model: R1AsaForCausalLM) -> Iterator[Decisions]:
    """Yields a record that every forward pass inside the context fills anew.

    Args:
        model: The module whose routers and gates are watched.
    """
    config = model.config
    skips = {index: gqa_of_layer(config, index).hla.lam_skip for index in range(config.num_layers)}
    decisions = Decisions(lam_skip=skips)

    def remember_validity(module: nn.Module, args: tuple[Any, ...]) -> None:
        _, _, decisions.valid_BS, *_ = args

    handles = [model.model.layers[0].register_forward_pre_hook(remember_validity)]
    for layer, block in enumerate(model.model.layers):
        for module in block.modules():
            if isinstance(module, Router):
                handles.append(module.register_forward_hook(partial(_store, decisions.routing, layer)))
            elif isinstance(module, LambdaGate):
                handles.append(module.register_forward_hook(partial(_store, decisions.lam, layer)))
    try:
        yield decisions
    finally:
        for handle in handles:
            handle.remove()
