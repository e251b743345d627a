"""What a contender of `benchmark_cpu.py` is told in its own process, line by line, and what it answers.

Imports nothing but NumPy, since peers run in Python environments of their own. `llama_worker.cpp` speaks the
same:

    prefill TOKENS BATCH       seconds to read a prompt of random tokens on each of BATCH rows
    decode DEPTH STEPS BATCH   seconds of a step, after DEPTH tokens on each row
    logits IDS OUTPUT          reads int32 ids from an empty cache; writes FLOAT logits [tokens, vocabulary]

An answer is a line "= SECONDS"; the first says how long it took to load and to read one token.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]


class Engine(Protocol):
    """A loaded model with room for some rows.

    Attributes:
        vocab_size: Token ids run from 0 to this, exclusive.
    """

    vocab_size: int

    def read(self, ids_BS: Ids) -> None:
        """Reads a prompt on each row, from an empty cache."""
        ...

    def seek(self, depth: int, batch: int) -> None:
        """Makes `batch` rows hold `depth` tokens each; not timed."""
        ...

    def step(self, ids_B: Ids) -> None:
        """Appends a token to each row."""
        ...

    def logits(self, ids_T: Ids) -> npt.NDArray[np.float32]:
        """Logits [T, V] of one text, from an empty cache."""
        ...


def serve(engine: Engine, started: float) -> None:
    """Answers until its input ends; `started` is when loading began, of `time.perf_counter`."""
    engine.read(np.zeros((1, 1), np.int32))
    _answer(time.perf_counter() - started)
    rng = np.random.default_rng(0)
    for line in sys.stdin:
        verb, *arguments = line.split()
        _answer(_TASKS[verb](engine, rng, *arguments))


def _prefill(engine: Engine, rng: np.random.Generator, tokens: str, batch: str) -> float:
    ids_BS = rng.integers(engine.vocab_size, size=(int(batch), int(tokens)), dtype=np.int32)
    started = time.perf_counter()
    engine.read(ids_BS)
    return time.perf_counter() - started


def _decode(engine: Engine, rng: np.random.Generator, depth: str, steps: str, batch: str) -> float:
    ids_NB = rng.integers(engine.vocab_size, size=(int(steps), int(batch)), dtype=np.int32)
    engine.seek(int(depth), int(batch))
    started = time.perf_counter()
    for ids_B in ids_NB:
        engine.step(ids_B)
    return (time.perf_counter() - started) / int(steps)


def _logits(engine: Engine, rng: np.random.Generator, ids: str, output: str) -> float:
    started = time.perf_counter()
    engine.logits(np.fromfile(ids, np.int32)).astype(np.float32).tofile(Path(output))
    return time.perf_counter() - started


def _answer(seconds: float) -> None:
    print(f"= {seconds:.9f}", flush=True)


_TASKS: dict[str, Any] = {"prefill": _prefill, "decode": _decode, "logits": _logits}
