"""ONNX Runtime GenAI's model, told what to do by `benchmark_cpu.py` (see `worker_loop.py`).

Runs in the peer's own Python environment. Its `generate_next_token` also picks the token, greedily.

python scripts/genai_worker.py MODEL THREADS ROWS CAPACITY
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime_genai  # type: ignore[import-not-found, unused-ignore]
from worker_loop import Ids, serve


class GenaiEngine:
    """A folder of the model builder."""

    def __init__(self, folder: str, threads: int, capacity: int) -> None:
        config = onnxruntime_genai.Config(folder)
        options = {"intra_op_num_threads": threads, "log_severity_level": 3}
        config.overlay(_overlay(options))
        self._model = onnxruntime_genai.Model(config)
        self._capacity = capacity
        self.vocab_size = 256
        self._generator: Any = None
        self._batch = self._held = 0

    def read(self, ids_BS: Ids) -> None:
        """Reads prompts in one call."""
        self._begin(len(ids_BS))
        self._generator.append_tokens(ids_BS)
        self._held = ids_BS.shape[1]

    def seek(self, depth: int, batch: int) -> None:
        """Goes back where it holds as much already; otherwise reads anew."""
        if self._batch != batch or self._held < depth:
            self.read(np.full((batch, depth), 7, np.int32))
        else:
            self._generator.rewind_to(depth - 1)
            self._generator.append_tokens(np.full((batch, 1), 7, np.int32))
        # The first token after a prompt is picked from logits that are there; it is not a step.
        self._generator.generate_next_token()
        self._held = depth + 1

    def step(self, ids_B: Ids) -> None:
        """Reads the token picked last, and picks the next."""
        self._generator.generate_next_token()
        self._held += 1

    def logits(self, ids_T: Ids) -> npt.NDArray[np.float32]:
        """All logits of one call."""
        self._begin(1)
        self._generator.append_tokens(ids_T[None])
        logits: npt.NDArray[np.float32] = self._generator.get_output("logits")[0]
        return logits

    def _begin(self, batch: int) -> None:
        self._generator = None
        params = onnxruntime_genai.GeneratorParams(self._model)
        # The least length keeps random text from ending.
        lengths = {"max_length": self._capacity, "min_length": self._capacity}
        params.set_search_options(do_sample=False, batch_size=batch, **lengths)
        self._generator = onnxruntime_genai.Generator(self._model, params)
        self._batch, self._held = batch, 0


def _overlay(options: dict[str, int]) -> str:
    import json

    return json.dumps({"model": {"decoder": {"session_options": options}}})


def main() -> None:
    """Loads the model and serves."""
    started = time.perf_counter()
    folder, threads, _, capacity = sys.argv[1:]
    serve(GenaiEngine(folder, int(threads), int(capacity)), started)


if __name__ == "__main__":
    main()
