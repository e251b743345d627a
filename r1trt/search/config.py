"""What a search is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from r1trt.calibrate.options import MIN_TOKENS
from r1trt.errors import UsageError
from r1trt.search.times import Objective, Workload

_LEAST = dict.fromkeys(("screen_tokens", "search_tokens", "final_tokens"), MIN_TOKENS) | {"window": 2}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a plan may cost in accuracy: one of both.

    Attributes:
        kl: Mean KL divergence of the next token, in nats.
        perplexity_increase: Relative, 0.01 = 1 %.
    """

    kl: float | None = None
    perplexity_increase: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.kl, self.perplexity_increase) if value is not None]
        if len(given) != 1:
            raise UsageError(
                "A search needs one budget.",
                found=f"{len(given)} of them",
                expected="--max-kl or --max-perplexity-increase",
            )
        if not math.isfinite(given[0]) or given[0] <= 0:
            raise UsageError("A budget is a number above 0.", found=given[0])

    @property
    def limit(self) -> float:
        """The one that is given, in its own unit."""
        limit = self.kl if self.kl is not None else self.perplexity_increase
        assert limit is not None, "a budget has one limit"
        return limit

    @property
    def nats(self) -> float:
        """The limit in nats a token: perplexity grows by the exponential of what likelihood loses."""
        return self.kl if self.kl is not None else math.log1p(self.perplexity_increase or 0.0)

    def __str__(self) -> str:
        if self.kl is not None:
            return f"KL divergence of at most {self.kl:.3g} nats"
        return f"perplexity increase of at most {self.perplexity_increase:.2%}"


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Options of a search.

    Attributes:
        model: Export directory.
        arch: `--arch`.
        budget: What the plan may cost; may be None where `from_front` says what to take.
        minimize: What is to be small under it.
        device: Whose times are modelled; None takes the architecture's.
        workload: What is timed.
        calibration: Text to measure scales on, and to search on; None takes the package's.
        heldout: Text for the last measurement, which nothing else reads; None takes the package's.
        screen_tokens: Tokens that every choice of every group is measured on.
        search_tokens: Tokens that whole plans are measured on.
        final_tokens: Tokens of the last measurement.
        window: Tokens of one window.
        from_front: Take this point of the front (1 is the most accurate) in place of the budget's best.
        scores: Whether to compute cheap scores beside the damages, by PyTorch.
        threads: CPU threads; None takes one for each core that may be used.
        output: Directory of the result; None means `<model>/<arch>-searched`.
    """

    model: Path
    arch: str
    budget: Budget | None = None
    minimize: Objective = "time"
    device: str | None = None
    workload: Workload = field(default_factory=Workload)
    calibration: Path | None = None
    heldout: Path | None = None
    screen_tokens: int = 512
    search_tokens: int = 4096
    final_tokens: int = 16384
    window: int = 256
    from_front: int | None = None
    scores: bool = False
    threads: int | None = None
    output: Path | None = None

    @property
    def goal(self) -> str:
        """Which plan is taken, as text."""
        if self.from_front is None:
            return str(self.budget)
        beside = "" if self.budget is None else f", held against a {self.budget}"
        return f"point {self.from_front} of the front{beside}"

    def __post_init__(self) -> None:
        if self.budget is None and self.from_front is None:
            raise UsageError(
                "A search needs a budget.",
                expected="--max-kl or --max-perplexity-increase, or a point of the front: --from-front",
            )
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise UsageError(
                    f"{name} is too small.", found=getattr(self, name), expected=f"at least {least}"
                )
