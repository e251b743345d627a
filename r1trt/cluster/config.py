"""How a model's parts run on a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from r1trt.config.checks import require


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """How a model's parts run on a cluster.

    Attributes:
        directory: The directory that all parts are in, at the same path on every machine.
        rows: Rows of the caches, of all lanes together.
        threads: CPU threads of each stage; None takes one for each core of its machine.
        call_seconds: A stage that has not answered a call by then is ended and started anew.
        start_seconds: How long a stage may take to start, or to start anew, its part loaded.
    """

    directory: Path
    rows: int = 1
    threads: int | None = None
    call_seconds: float = 300.0
    start_seconds: float = 600.0

    def __post_init__(self) -> None:
        """Raises ConfigError for a value out of range."""
        require(self.rows >= 1, "A cluster's caches have rows", found=self.rows, expected="at least 1")
        for name in ("call_seconds", "start_seconds"):
            value = getattr(self, name)
            require(value > 0, f"{name} is too small", found=value, expected="more than 0")
