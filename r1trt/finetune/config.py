"""What a fine-tuning is asked for; imports nothing heavy, since the command lists the losses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from r1trt.arch import ARCHITECTURES
from r1trt.calibrate.options import MIN_TOKENS
from r1trt.errors import UsageError

Loss = Literal["distillation", "next-token"]
LOSSES: tuple[Loss, ...] = get_args(Loss)
Precision = Literal["fp8", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

EPOCHS, BATCH, SEQ_LEN, SAVE_EVERY, HELDOUT_TOKENS = 3, 4, 512, 20, 8192
LEARNING_RATE = 1e-5
_LEAST = {"epochs": 1, "batch": 1, "seq_len": 2, "save_every": 1, "heldout_tokens": MIN_TOKENS}


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Options of a fine-tuning.

    Attributes:
        checkpoint: Hugging Face directory.
        output: Checkpoint directory to write; absent or empty.
        arch: `--arch` whose plan is followed.
        precision: What the plan is made for. "bf16" quantizes nothing: what training does by itself.
        text: Text to train on, `.txt` or `.jsonl`; None takes the package's.
        epochs: How often the text is read.
        seq_len: Tokens of a window; None takes 512, or the model's context length where that is less.
        batch: Windows of a step.
        learning_rate: The highest of the schedule.
        loss: "distillation": KL divergence from the unquantized model. "next-token": cross-entropy.
        seed: Of the windows' order.
        keep_layers: Layers that keep their activations for the backward pass, from the end where negative;
            all others compute them again. None keeps those of all layers.
        save_every: Steps between two states that a later run resumes from.
        threads: CPU threads of training; None takes one for each core.
        heldout: Text that accuracy is measured on; None takes the package's.
        heldout_tokens: Tokens to measure on, at most.
    """

    checkpoint: Path
    output: Path
    arch: str = "ada"
    precision: Precision = "fp8"
    text: Path | None = None
    epochs: int = EPOCHS
    seq_len: int | None = None
    batch: int = BATCH
    learning_rate: float = LEARNING_RATE
    loss: Loss = LOSSES[0]
    seed: int = 0
    keep_layers: tuple[int, ...] | None = None
    save_every: int = SAVE_EVERY
    threads: int | None = None
    heldout: Path | None = None
    heldout_tokens: int = HELDOUT_TOKENS

    def __post_init__(self) -> None:
        """Raises UsageError for a value out of range."""
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option} is too small.", found=value, expected=f"at least {least}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise UsageError("--learning-rate is out of range.", found=self.learning_rate, expected="above 0")
        for name, value, known in (
            ("loss", self.loss, LOSSES),
            ("precision of a fine-tuning", self.precision, PRECISIONS),
        ):
            if value not in known:
                raise UsageError(f"Unknown {name}.", found=value, expected=" | ".join(known))
        if self.precision == "fp8" and self.arch in ARCHITECTURES and not ARCHITECTURES[self.arch].fp8:
            raise UsageError(
                "This architecture has no FP8 to train for.",
                found=f"--arch {self.arch}",
                expected=" | ".join(name for name, known in ARCHITECTURES.items() if known.fp8),
                fix="take one of these, or train with --bf16, which quantizes nothing",
            )

    @property
    def state(self) -> Path:
        """Directory beside the output that an unfinished training is kept in."""
        return self.output.with_name(f"{self.output.name}.training")


def recomputed_layers(config: FinetuneConfig, count: int) -> frozenset[int]:
    """Indices of the layers that a backward pass computes again.

    Args:
        config: Says which are kept.
        count: Layers of the model.

    Raises:
        UsageError: It has no such layer.
    """
    if config.keep_layers is None:
        return frozenset()
    unknown = [layer for layer in config.keep_layers if not -count <= layer < count]
    if unknown:
        raise UsageError(
            "--keep-layers names layers that the model does not have.",
            found=", ".join(map(str, unknown)),
            expected=f"0 to {count - 1}, or -{count} to -1 from the end",
        )
    return frozenset(range(count)) - {layer % count for layer in config.keep_layers}
