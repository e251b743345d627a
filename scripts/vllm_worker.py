"""vLLM's model on the CPU, told what to do by `benchmark_cpu.py` (see `worker_loop.py`).

Runs in the peer's own Python environment, and its engine in this process. A step also picks the tokens,
greedily; the prefix cache is off. vLLM recommends OpenMP's library by Intel, which is preloaded where it is
installed.

python scripts/vllm_worker.py CHECKPOINT DTYPE THREADS ROWS CAPACITY
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy.typing as npt
from worker_loop import Ids, serve

PRELOAD = "LD_PRELOAD"


class VllmEngine:
    """A checkpoint."""

    vocab_size = 256

    def __init__(self, checkpoint: str, dtype: str, rows: int, capacity: int) -> None:
        from vllm import EngineArgs  # type: ignore[import-not-found, unused-ignore]
        from vllm.v1.engine.llm_engine import LLMEngine  # type: ignore[import-not-found, unused-ignore]

        arguments = EngineArgs(
            model=checkpoint,
            dtype=dtype,
            skip_tokenizer_init=True,
            max_model_len=capacity,
            max_num_seqs=rows,
            max_num_batched_tokens=rows * capacity,
            enable_prefix_caching=False,
        )
        self._engine: Any = LLMEngine.from_engine_args(arguments)
        self._capacity = capacity
        self._names = itertools.count()
        self._running: list[str] = []

    def read(self, ids_BS: Ids) -> None:
        """Reads prompts in one call, which gives each its first token."""
        self._begin(ids_BS, tokens=1)
        while self._engine.has_unfinished_requests():
            self._engine.step()

    def seek(self, depth: int, batch: int) -> None:
        """Reads anew: requests cannot go back."""
        self._begin([[7] * depth] * batch, tokens=self._capacity - depth)
        self._engine.step()

    def step(self, ids_B: Ids) -> None:
        """Reads the tokens picked last, and picks the next."""
        self._engine.step()

    def logits(self, ids_T: Ids) -> npt.NDArray[Any]:
        """Of vLLM there are none: it gives tokens and their probabilities."""
        raise NotImplementedError("vLLM gives no logits")

    def _begin(self, prompts: Any, tokens: int) -> None:
        from vllm import SamplingParams

        self._engine.abort_request(self._running)
        sampling = SamplingParams(max_tokens=tokens, ignore_eos=True, temperature=0.0, detokenize=False)
        self._running = [str(next(self._names)) for _ in prompts]
        for name, prompt in zip(self._running, prompts, strict=True):
            self._engine.add_request(name, {"prompt_token_ids": [int(id) for id in prompt]}, sampling)


def main() -> None:
    """Loads the model and serves."""
    started = time.perf_counter()
    checkpoint, dtype, threads, rows, capacity = sys.argv[1:]
    openmp = Path(sys.prefix) / "lib" / "libiomp5.so"
    if openmp.exists() and PRELOAD not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, PRELOAD: str(openmp)})
    os.environ.update(
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_CPU_OMP_THREADS_BIND=f"0-{int(threads) - 1}",
        VLLM_NO_USAGE_STATS="1",
        HF_HUB_OFFLINE="1",
    )
    answers = os.dup(1)  # what vLLM prints is no answer
    os.dup2(2, 1)
    with open(answers, "w", encoding="utf-8") as sys.stdout:
        serve(VllmEngine(checkpoint, dtype, int(rows), int(capacity)), started)


if __name__ == "__main__":
    main()
