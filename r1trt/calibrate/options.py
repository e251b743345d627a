"""What a calibration may be told; imports nothing heavy, since commands list the methods."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from r1trt.errors import PlanError

CalibrationMethod = Literal["amax", "mse", "percentile"]
CALIBRATION_METHODS: tuple[CalibrationMethod, ...] = get_args(CalibrationMethod)
PERCENTILE = 99.99
TOKENS, MIN_TOKENS = 8192, 256


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """What is measured on, and how activation scales follow.

    Attributes:
        text: `.txt` or `.jsonl` file; None for the text that comes with the package.
        method: What becomes the largest code. `amax`: the largest magnitude. `percentile`: the magnitude that
            `percentile` percent do not exceed. `mse`: what gives the smallest squared error.
        percentile: In percent, for that method.
        tokens: Tokens to measure on.
        chunk: Tokens of one call.
    """

    text: Path | None = None
    method: CalibrationMethod = "mse"
    percentile: float = PERCENTILE
    tokens: int = TOKENS
    chunk: int = 512

    def __post_init__(self) -> None:
        """Raises PlanError for a value out of range."""
        if self.method not in CALIBRATION_METHODS:
            raise PlanError(
                "Unknown calibration method.", found=self.method, expected=" | ".join(CALIBRATION_METHODS)
            )
        if not 0.0 < self.percentile <= 100.0:
            raise PlanError(
                "A percentile is out of range.", found=self.percentile, expected="above 0, at most 100"
            )
        if self.tokens < MIN_TOKENS or self.chunk < 1:
            raise PlanError(
                "Calibration needs tokens.",
                found=f"{self.tokens} tokens in chunks of {self.chunk}",
                expected=f"at least {MIN_TOKENS}, in chunks of at least 1",
            )
