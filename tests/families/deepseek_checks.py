"""DeepSeek exports against `transformers`; tokens within 1e-5 of a routing tie are left out and counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from export.agreement import FEEDS, TOLERANCE, Logits, exported_session, feed, random_prompts
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from r1trt.config import MoeConfig
from r1trt.families import model_config_from_dict
from r1trt.model.moe import Router, Routing

TIE = 1e-5
LENGTHS = (37, 23)


class Reference:
    """A checkpoint in `transformers`, FP32, with the decisions of its routers.

    Args:
        checkpoint: Hugging Face directory.
    """

    def __init__(self, checkpoint: Path) -> None:
        raw = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        self.config = model_config_from_dict(raw, where=checkpoint / "config.json")
        # Grouped products of experts ask for aligned sizes.
        self._model = AutoModelForCausalLM.from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
        )
        self._routing: dict[int, Routing] = {}
        for index, layer in enumerate(self.config.layers):
            if isinstance(layer.mlp, MoeConfig):
                self._watch(index, layer.mlp)

    @torch.no_grad()
    def logits(self, prompt: npt.NDArray[np.int64]) -> tuple[Logits, npt.NDArray[np.bool_]]:
        """Logits [L,V] of one prompt, and which tokens are not near a tie in any layer, [L]."""
        found = self._model(torch.from_numpy(prompt)[None]).logits[0].numpy()
        clear = np.ones(len(prompt), bool)
        for routing in self._routing.values():
            clear &= routing.margin_T.numpy() >= TIE
        return found, clear

    def experts(self, layer: int) -> set[int]:
        """The experts that the last prompt's tokens went to."""
        return set(self._routing[layer].experts_TK.flatten().tolist())

    def _watch(self, index: int, config: MoeConfig) -> None:
        gate = self._model.model.layers[index].mlp.gate
        router = Router(config, self.config.hidden_size)
        router.load_state_dict(gate.state_dict())
        gate.register_forward_hook(partial(self._remember, index, router))

    def _remember(self, index: int, router: Router, gate: nn.Module, args: Any, output: Any) -> None:
        hidden: Tensor = args[0]
        self._routing[index] = router(hidden.reshape(-1, hidden.shape[-1]))
        _, weights, experts = output
        ours, theirs = (
            torch.zeros(len(routed), router.config.num_experts).scatter(1, routed, weight)
            for routed, weight in (
                (self._routing[index].experts_TK, self._routing[index].weights_TK),
                (experts, weights),
            )
        )
        clear = self._routing[index].margin_T >= TIE
        torch.testing.assert_close(ours[clear], theirs[clear], atol=1e-5, rtol=1e-5)


def assert_export_agrees(
    checkpoint: Path, directory: Path, *, capacity: int = 128, reference: Path | None = None
) -> int:
    """Compares every way to feed an export with `transformers`; returns how many tokens were left out.

    `reference` is what `transformers` loads, if it is not the checkpoint itself.
    """
    session = exported_session(checkpoint, directory, capacity)
    prompts = random_prompts(LENGTHS, session.limits.vocab_size)
    oracle, left_out = Reference(reference or checkpoint), 0
    wanted = [oracle.logits(prompt) for prompt in prompts]
    for how, calls in FEEDS.items():
        for row, got in enumerate(feed(session, prompts, calls)):
            left_out += _assert_close(got, *wanted[row], f"{how}, row {row}")
    assert left_out <= 0.1 * len(FEEDS) * sum(LENGTHS), "too many tokens lie near a tie"
    return left_out


def assert_prompts_agree(
    checkpoint: Path, directory: Path, prompts: Sequence[npt.NDArray[np.int64]]
) -> set[int]:
    """Compares whole prompts, in a batch; returns the experts of layer 0 that their tokens went to."""
    longest = max(map(len, prompts))
    session, reference = exported_session(checkpoint, directory, longest), Reference(checkpoint)
    chosen: set[int] = set()
    got = feed(session, prompts, [tuple(map(len, prompts))])
    for row, prompt in enumerate(prompts):
        left_out = _assert_close(got[row], *reference.logits(prompt), f"row {row}")
        assert left_out <= 0.1 * len(prompt)
        chosen |= reference.experts(0)
    return chosen


def _assert_close(got: Logits, want: Logits, clear: npt.NDArray[np.bool_], label: str) -> int:
    want, clear = want[: len(got)], clear[: len(got)]
    error = np.abs(got - want)[clear].max() / np.abs(want).max()
    assert error <= TOLERANCE, f"{label}: {error:.2e}"
    return int((~clear).sum())
