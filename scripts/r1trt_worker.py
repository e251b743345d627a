"""r1trt's engine, told what to do by `benchmark_cpu.py` (see `worker_loop.py`).

python scripts/r1trt_worker.py ENGINE THREADS ROWS CAPACITY
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from worker_loop import Ids, serve

from r1trt.evaluate.models import model_from_session
from r1trt.runtime.load import session_from_engine
from r1trt.runtime.prefill import prefill
from r1trt.runtime.session import LOGITS


class OurEngine:
    """A build of `--arch cpu`, as `r1trt generate` runs it."""

    def __init__(self, directory: Path, threads: int, rows: int) -> None:
        self._session = session_from_engine(directory, threads=threads)
        self._session.reset(rows)
        self._rows = rows
        self._held = self._filled = 0  # tokens of the rows in use, and of all rows
        self.vocab_size = self._session.limits.vocab_size

    def read(self, ids_BS: Ids) -> None:
        """Reads prompts in the calls that the engine was built for."""
        prefill(self._session, ids_BS.tolist())
        self._held, self._filled = ids_BS.shape[1], 0

    def seek(self, depth: int, batch: int) -> None:
        """Reads zeros into the first row where it does not hold enough; the others get copies of it."""
        # NOTES: caches that nothing has written share one page of zeros, which is read faster than any other.
        if self._session.rows != self._rows or self._filled < depth:
            self._session.reset(self._rows)
            one_B, size = np.ones(1, np.int64), self._session.limits.max_input_len or depth
            for start in range(0, depth, size):
                length = min(size, depth - start)
                self._session.step(np.zeros((1, length), np.int64), one_B * length, one_B * start)
            for row in range(1, self._rows):
                self._session.move(0, row, depth)
            self._filled = depth
        self._held = depth

    def step(self, ids_B: Ids) -> None:
        """One call of one token a row."""
        B = len(ids_B)
        past_len_B = np.full(B, self._held, np.int64)
        self._session.step(ids_B[:, None].astype(np.int64), np.ones(B, np.int64), past_len_B)
        self._held += 1

    def logits(self, ids_T: Ids) -> npt.NDArray[np.float32]:
        """All of them: token after token where the engine gives the last one's alone."""
        return model_from_session(self._session)(ids_T.astype(np.int64))[LOGITS]


def main() -> None:
    """Loads the engine and serves."""
    started = time.perf_counter()
    engine, threads, rows, _ = sys.argv[1:]
    serve(OurEngine(Path(engine), int(threads), int(rows)), started)


if __name__ == "__main__":
    main()
