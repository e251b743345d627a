"""Exported graphs against `transformers` in FP32; the cases of a family are in its own test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from export.agreement import (
    FEEDS,
    TOLERANCE,
    assert_export_equals_transformers,
    exported_session,
    feed,
    random_prompts,
    relative_error,
    transformers_logits,
)
from tiny_checkpoints import write_llama


def test_smollm2_equals_transformers(smollm2_dir: Path, tmp_path: Path) -> None:
    assert_export_equals_transformers(smollm2_dir, tmp_path / "export")


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
