"""Training a module under a plan: AdamW on FP32 masters, resumed where it was cut off.

Legend: B windows of a step, S tokens of a window, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from r1trt.errors import ValidationError
from r1trt.finetune.memory import peak_bytes
from r1trt.finetune.planned_module import PlannedModule
from r1trt.finetune.state import SavedState
from r1trt.finetune.texts import TrainingText
from r1trt.machine import cores
from r1trt.model import R1AsaForCausalLM

WARMUP, CLIP, BETAS = 0.1, 1.0, (0.9, 0.98)
"""Part of the steps that the rate rises in; the largest norm of a step's gradient; AdamW's."""
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(kw_only=True)
class Training:
    """A module in training.

    Attributes:
        planned: The module and its masters.
        teacher: The unquantized module whose predictions are to be met; None trains on the next token.
        text: What it reads.
        learning_rate: The highest of the schedule.
        losses: Of each step that is done.
    """

    planned: PlannedModule
    teacher: R1AsaForCausalLM | None
    text: TrainingText
    learning_rate: float
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.planned.round_weights()
        self._optimizer = torch.optim.AdamW(
            self.planned.masters.values(), lr=0.0, betas=BETAS, weight_decay=0.0, foreach=False
        )

    @property
    def done(self) -> bool:
        """Whether all steps are."""
        return len(self.losses) >= self.text.steps

    def rate(self) -> float:
        """Of the next step: linear at first, then a cosine down to 0."""
        step, steps = len(self.losses), self.text.steps
        warm = min(1.0, (step + 1) / math.ceil(WARMUP * steps))
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / steps))

    def advance(self) -> None:
        """Takes one step.

        Raises:
            ValidationError: The loss or its gradient is not finite; nothing has moved.
        """
        loss = self._backward(self.text.batch_of_step(len(self.losses)))
        self._take_gradients()
        norm = float(torch.nn.utils.clip_grad_norm_(self.planned.masters.values(), CLIP))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise ValidationError(
                "The training came upon a number that is not finite.",
                where=f"step {len(self.losses) + 1} of {self.text.steps}",
                found=f"loss {loss}, norm of its gradient {norm}",
                fix="remove the training's directory beside the output; begin with a lower --learning-rate",
            )
        for group in self._optimizer.param_groups:
            group["lr"] = self.rate()
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.planned.round_weights()
        self.planned.advance_ranges()
        self.losses.append(loss)

    def _take_gradients(self) -> None:
        """Parameters' gradients become their masters'; an expert that no token took has a gradient of 0."""
        for name, parameter in self.planned.parameters.items():
            found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            self.planned.masters[name].grad, parameter.grad = found, None

    def _backward(self, ids: NDArray[np.int64]) -> float:
        ids_BS = torch.from_numpy(ids)
        loss = self._loss(ids_BS[:, :-1], ids_BS[:, 1:])
        torch.autograd.backward(loss)
        return float(loss.detach())

    def _loss(self, ids_BS: Tensor, targets_BS: Tensor) -> Tensor:
        """Nats a token: KL divergence from the teacher, or what the next token takes."""
        logits_NV = self.planned.module(ids_BS).flatten(0, 1)
        if self.teacher is None:
            return F.cross_entropy(logits_NV, targets_BS.flatten())
        with torch.no_grad():
            known_NV = self.teacher(ids_BS).flatten(0, 1).log_softmax(-1)
        return F.kl_div(logits_NV.log_softmax(-1), known_NV, reduction="batchmean", log_target=True)

    def peak_bytes(self, recomputed: frozenset[int]) -> int:
        """Memory that the forward and backward pass of a first step take, and nothing else happens.

        Args:
            recomputed: Layers that are computed again.
        """
        module, before = self.planned.module, self.planned.module.recomputed
        module.recomputed = recomputed
        try:
            return peak_bytes(lambda: self._backward(self.text.batch_of_step(0)))
        finally:
            module.recomputed = before
            module.zero_grad()
            for item in self.planned.ranges.values():
                item.forget()

    def state(self) -> SavedState:
        """What a later run goes on from."""
        tensors = {f"master/{name}": master.detach() for name, master in self.planned.masters.items()}
        for name, master in self.planned.masters.items():
            moments = self._optimizer.state[master]
            tensors |= {f"{kind}/{name}": moments[kind] for kind in _MOMENTS}
        for (key, scale), item in self.planned.ranges.items():
            tensors[f"range/{key}/{scale}"] = torch.tensor(item.amax, dtype=torch.float64)
        return SavedState(losses=list(self.losses), tensors=tensors)

    @torch.no_grad()
    def resume(self, state: SavedState) -> None:
        """Goes on from a state of the same training."""
        step = torch.tensor(float(state.step))
        for name, master in self.planned.masters.items():
            master.copy_(state.tensors[f"master/{name}"])
            moments = {kind: state.tensors[f"{kind}/{name}"] for kind in _MOMENTS}
            self._optimizer.state[master] = {"step": step.clone(), **moments}
        for (key, scale), item in self.planned.ranges.items():
            item.amax = float(state.tensors[f"range/{key}/{scale}"])
        self.losses = list(state.losses)
        self.planned.round_weights()


@contextmanager
def threads_of_torch(threads: int | None) -> Iterator[None]:
    """PyTorch computes with so many within the block; None takes a thread for each core that it may use."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)
