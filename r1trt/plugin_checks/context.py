"""What every stage is given: the machine, the seed, the time that is left, and where results go."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from r1trt.errors import UsageError

GPU, HOST = "gpu", "host"
Result = dict[str, Any]
Item = TypeVar("Item")


@dataclass(kw_only=True)
class Budget:
    """Wall time of this run.

    Attributes:
        seconds: All of it.
        clock: Tells the time, in seconds.
    """

    seconds: float
    clock: Callable[[], float] = time.monotonic
    started: float = field(init=False)

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise ValueError(f"a time budget of {self.seconds} seconds")
        self.started = self.clock()

    @property
    def left(self) -> float:
        """Seconds until its end; negative past it."""
        return self.seconds - (self.clock() - self.started)


@dataclass(frozen=True, kw_only=True)
class Context:
    """One run.

    Attributes:
        mode: `gpu`, or `host` for the kernels as the CPU executes them: small shapes, no times.
        sm: Compute capability of the GPU, as in 90; in `host`, the one that the kernels are told.
        seed: Of every random number.
        budget: The time that is left.
        save: Keeps a stage's unfinished result.
        log: Is told of each step.
        quick: Few cases, and of the rows the first of each kind.
        only: Texts, one of which the names of cases and rows must have; none takes all.
    """

    mode: str
    sm: int
    seed: int
    budget: Budget
    save: Callable[[Result], None]
    log: Callable[[str], None]
    quick: bool = False
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.mode not in (GPU, HOST):
            raise ValueError(f"mode {self.mode!r}; {GPU} or {HOST} expected")

    @property
    def on_gpu(self) -> bool:
        """Whether the kernels run on a GPU."""
        return self.mode == GPU

    def selected(self, named: list[tuple[str, Item]]) -> list[tuple[str, Item]]:
        """The cases or rows, by their names, that are asked for.

        Raises:
            UsageError: There is none.
        """
        found = [item for item in named if not self.only or any(text in item[0] for text in self.only)]
        if named and not found:
            raise UsageError(
                "No case or row has such a name.",
                where="--only",
                found=", ".join(self.only),
                expected="a part of one of: " + "; ".join(name for name, _ in named),
            )
        return found
