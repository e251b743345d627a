"""Finished runs as files: a run that stands is not repeated, and one that was killed starts again."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from machine import machine

from r1trt.artifacts.disk import replace_file


@dataclass(frozen=True, kw_only=True)
class Run:
    """One measurement of a row, and everything that its result depends on.

    Attributes:
        row: Name of the row, as --row takes it.
        variant: What differs from the row's other runs.
        seed: Of weights and data.
        config: All that the result depends on beside the seed, as JSON can hold it.
    """

    row: str
    variant: str
    seed: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What its file is called."""
        return f"{self.row}-{self.variant}-{self.seed}"

    @property
    def digest(self) -> str:
        """Names the configuration: another one gives another digest."""
        return hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class RunStore:
    """Results of finished runs, a JSON file each.

    Attributes:
        directory: Where they lie.
        finished_only: Start nothing: what has not run is left out.
        counts: How many runs were "asked" for, and of how many there is a "result".
    """

    directory: Path
    finished_only: bool = False
    counts: Counter[str] = field(default_factory=Counter)

    def path(self, run: Run, suffix: str = ".json") -> Path:
        """Where the result of a run lies, or, with another suffix, what belongs to it, as its weights."""
        return self.directory / f"{run.name}{suffix}"

    def finished(self, run: Run) -> dict[str, Any] | None:
        """The record of a run that stands with this configuration; None if there is none."""
        path = self.path(run)
        if not path.exists():
            return None
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return record if record["digest"] == run.digest else None

    def record(self, run: Run, measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any] | None:
        """Measures a run, unless it stands already.

        Args:
            run: What to measure.
            measure: Measures it; its result is what JSON can hold.

        Returns:
            `row, variant, seed, digest, config, machine, torch, threads, seconds, processor_seconds` and
            `result`, what `measure` returned; None if the run does not stand and nothing is to be started.
        """
        record = self.finished(run)
        self.counts.update(asked=1, result=record is not None or not self.finished_only)
        if record is not None or self.finished_only:
            return record
        begin = time.perf_counter(), time.process_time()
        result = dict(measure())
        wall, processor = time.perf_counter() - begin[0], time.process_time() - begin[1]
        record = {
            **{name: getattr(run, name) for name in ("row", "variant", "seed", "digest")},
            "config": dict(run.config),
            "machine": machine(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "seconds": round(wall, 1),
            "processor_seconds": round(processor, 1),
            "result": result,
        }
        self.directory.mkdir(parents=True, exist_ok=True)
        replace_file(self.path(run), json.dumps(record, indent=1) + "\n")
        print(f"{run.name}  {wall:.0f} s", flush=True)
        return record
