"""Exported Llama and Qwen2 graphs against `transformers` in FP32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export.agreement import FEEDS, TOLERANCE, exported_session, feed, random_prompts, relative_error
from tiny_checkpoints import LLAMA3_ROPE, write_llama, write_qwen2
from transformers import AutoModelForCausalLM

CASES: dict[str, tuple[Callable[..., Path], dict[str, Any]]] = {
    "llama": (write_llama, {}),
    "llama-tied": (write_llama, {"tie_word_embeddings": True}),
    "llama-llama3-rope": (write_llama, {"rope": LLAMA3_ROPE}),
    "llama-old-rope-spelling": (write_llama, {"rope": LLAMA3_ROPE, "old_rope_spelling": True}),
    "llama-biases": (write_llama, {"attention_bias": True, "mlp_bias": True}),
    "llama-wide-heads": (write_llama, {"head_dim": 32}),
    "llama-sharded": (write_llama, {"max_shard_size": "50KB"}),
    "llama-bfloat16": (write_llama, {"dtype": "bfloat16"}),
    "llama-yarn": (
        write_llama,
        {"rope": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
    ),
    "llama-linear": (write_llama, {"rope": {"rope_type": "linear", "factor": 2.0}}),
    "qwen2": (write_qwen2, {}),
    "qwen2-old-rope-spelling": (write_qwen2, {"old_rope_spelling": True}),
}


@torch.no_grad()
def transformers_logits(checkpoint: Path, prompts: list[Any]) -> list[Any]:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager")
    return [model(torch.from_numpy(prompt)[None]).logits[0].numpy() for prompt in prompts]


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_transformers(name: str, tmp_path: Path) -> None:
    write, options = CASES[name]
    checkpoint = write(tmp_path / "checkpoint", **options)
    session = exported_session(checkpoint, tmp_path / "export")
    prompts = random_prompts((37, 23), session.limits.vocab_size)
    want = transformers_logits(checkpoint, prompts)
    for how, calls in FEEDS.items():
        got = feed(session, prompts, calls)
        for row in range(len(prompts)):
            error = relative_error(got[row], want[row][: len(got[row])])
            assert error <= TOLERANCE, f"{name}, {how}, row {row}: {error:.2e}"


def test_smollm2_equals_transformers(smollm2_dir: Path, tmp_path: Path) -> None:
    session = exported_session(smollm2_dir, tmp_path / "export")
    prompts = random_prompts((37, 23), session.limits.vocab_size)
    want = transformers_logits(smollm2_dir, prompts)
    for how, calls in FEEDS.items():
        got = feed(session, prompts, calls)
        errors = [relative_error(got[row], want[row][: len(got[row])]) for row in range(2)]
        assert max(errors) <= TOLERANCE, f"{how}: {errors}"


def test_a_changed_weight_is_noticed(tmp_path: Path) -> None:
    """The comparison has teeth: another random model is far away."""
    session = exported_session(write_llama(tmp_path / "a"), tmp_path / "export")
    prompts = random_prompts((37, 23), session.limits.vocab_size)
    want = transformers_logits(write_llama(tmp_path / "b", seed=1), prompts)
    assert relative_error(feed(session, prompts, FEEDS["prefill"])[0], want[0]) > 100 * TOLERANCE


def test_last_token_logits_are_those_of_the_last_real_token(tmp_path: Path) -> None:
    from r1trt.export.export import ExportConfig, export_checkpoint
    from r1trt.runtime.load import session_from_engine

    checkpoint = write_llama(tmp_path / "checkpoint")
    whole = exported_session(checkpoint, tmp_path / "whole")
    config = ExportConfig(
        checkpoint=checkpoint, output=tmp_path / "last", max_seq_len=128, last_token_logits=True
    )
    last = session_from_engine(export_checkpoint(config))
    prompts = random_prompts((9, 5), whole.limits.vocab_size)
    want = feed(whole, prompts, [(9, 5)])
    ids = np.zeros((2, 9), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = prompt
    last.reset(2)
    got = last.step(ids, np.array([9, 5]), np.array([0, 0]))
    for row in range(2):
        assert np.array_equal(got[row, 0].argmax(), want[row][-1].argmax())
        assert relative_error(got[row, 0], want[row][-1]) <= TOLERANCE
