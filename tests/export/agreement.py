"""Feeds an exported graph in calls of its own choice, and compares real tokens' logits with an oracle's.

Legend: B batch, S tokens of one call, L tokens of a whole sequence, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM

from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.runtime.load import session_from_engine
from r1trt.runtime.session import Session

TOLERANCE = 1e-4  # of the largest logit
CAPACITY = 128

Logits = npt.NDArray[np.floating]
Feed = Sequence[Sequence[int]]  # one call a row: how many real tokens each sequence gets

# Batch 2, unequal lengths 37 and 23: in one call, in chunks, and token by token after a prefill. Rows
# without a token in a call stand for requests that wait while others go on.
FEEDS: dict[str, Feed] = {
    "prefill": [(37, 23)],
    "chunks": [(20, 7), (1, 15), (16, 1)],
    "decode": [(30, 20), *[(1, 1)] * 3, *[(1, 0)] * 4],
}


def exported_session(checkpoint: Path, directory: Path, capacity: int = CAPACITY) -> Session:
    """Exports a checkpoint and opens the graph in ONNX Runtime."""
    output = export_checkpoint(ExportConfig(checkpoint=checkpoint, output=directory, max_seq_len=capacity))
    return session_from_engine(output)


def random_prompts(lengths: Sequence[int], vocab_size: int, seed: int = 0) -> list[npt.NDArray[np.int64]]:
    """Token ids, one array a sequence."""
    generator = np.random.default_rng(seed)
    return [generator.integers(0, vocab_size, length) for length in lengths]


def feed(session: Session, prompts: Sequence[npt.NDArray[np.int64]], calls: Feed) -> list[Logits]:
    """Feeds prompts call by call, with garbage in the padding; logits [L,V] of each sequence."""
    generator = np.random.default_rng(1)
    session.reset(len(prompts))
    past_B = np.zeros(len(prompts), np.int64)
    parts: list[list[Logits]] = [[] for _ in prompts]
    for call in calls:
        seq_len_B = np.array(call, np.int64)
        ids_BS = generator.integers(0, session.limits.vocab_size, (len(prompts), max(call)))
        for row, count in enumerate(call):
            ids_BS[row, :count] = prompts[row][past_B[row] : past_B[row] + count]
        logits_BSV = session.step(ids_BS, seq_len_B, past_B)
        for row, count in enumerate(call):
            parts[row].append(logits_BSV[row, :count].copy())
        past_B = past_B + seq_len_B
    return [np.concatenate(part) for part in parts]


@torch.no_grad()
def transformers_logits(checkpoint: Path, prompts: Sequence[npt.NDArray[np.int64]]) -> list[Logits]:
    """Logits [L,V] of each prompt by `transformers` in FP32."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager")
    return [model(torch.from_numpy(prompt)[None]).logits[0].numpy() for prompt in prompts]


def assert_export_equals_transformers(
    checkpoint: Path, directory: Path, reference: Path | None = None
) -> None:
    """Exports a checkpoint and compares every way to feed it with `transformers`, which loads `reference`."""
    session = exported_session(checkpoint, directory)
    prompts = random_prompts((37, 23), session.limits.vocab_size)
    want = transformers_logits(reference or checkpoint, prompts)
    for how, calls in FEEDS.items():
        got = feed(session, prompts, calls)
        for row in range(len(prompts)):
            error = relative_error(got[row], want[row][: len(got[row])])
            assert error <= TOLERANCE, f"{how}, row {row}: {error:.2e}"


def relative_error(got: Logits, want: Logits) -> float:
    """Largest difference, relative to the largest logit."""
    return float(np.abs(got - want).max() / np.abs(want).max())
