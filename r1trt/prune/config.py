"""What a pruning is asked for; imports nothing heavy, since the command lists the criteria."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from r1trt.calibrate.options import MIN_TOKENS
from r1trt.errors import UsageError

Criterion = Literal["reap", "frequency", "random"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
SCORED_TOKENS, HELDOUT_TOKENS = 16384, 8192
WINDOW = 512
"""Most tokens that are read in one go, from an empty cache."""


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """Options of a pruning.

    Attributes:
        checkpoint: Hugging Face directory.
        output: Checkpoint directory to write; absent or empty.
        keep: Experts that every layer keeps; None where `remove` says it.
        remove: Share of every layer's experts to remove, at most; 0.25 = 25 %.
        criterion: Which experts stay. `reap`: those that add most to a token that takes them, on average.
            `frequency`: those that most tokens take. `random`: any.
        seed: Of `random`; None means 0 there, and is all that the others take.
        calibration: Text to score experts on, `.txt` or `.jsonl`; None takes the package's.
        calibration_tokens: Tokens to score on, at most.
        heldout: Text that accuracy is measured on; None takes the package's.
        heldout_tokens: Tokens to measure on, at most.
        dry_run: Score and choose, and write nothing.
    """

    checkpoint: Path
    output: Path
    keep: int | None = None
    remove: float | None = None
    criterion: Criterion = "reap"
    seed: int | None = None
    calibration: Path | None = None
    calibration_tokens: int = SCORED_TOKENS
    heldout: Path | None = None
    heldout_tokens: int = HELDOUT_TOKENS
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Raises UsageError for a value out of range, and for options that contradict each other."""
        if (self.keep is None) == (self.remove is None):
            found = "neither" if self.keep is None else f"--keep {self.keep} and --remove {self.remove:g}"
            raise UsageError("A pruning needs one of --keep and --remove.", found=found)
        if self.keep is not None and self.keep < 1:
            raise UsageError("--keep is too small.", found=self.keep, expected="at least 1")
        if self.remove is not None and not (math.isfinite(self.remove) and 0 < self.remove < 1):
            raise UsageError(
                "--remove is out of range.", found=self.remove, expected="above 0 and below 1, such as 25%"
            )
        if self.criterion not in CRITERIA:
            raise UsageError(
                "Unknown criterion of pruning.", found=self.criterion, expected=" | ".join(CRITERIA)
            )
        if self.seed is not None and self.criterion != "random":
            raise UsageError("--seed belongs to --criterion random.", found=f"--criterion {self.criterion}")
        for name, value in (
            ("--calibration-tokens", self.calibration_tokens),
            ("--heldout-tokens", self.heldout_tokens),
        ):
            if value < MIN_TOKENS:
                raise UsageError(f"{name} is too small.", found=value, expected=f"at least {MIN_TOKENS}")
