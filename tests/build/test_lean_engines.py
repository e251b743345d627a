"""Engines for the CPU: fused operators where they fit, and the numbers of `transformers` in every call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from cpu_engines import cpu_engine
from export.agreement import (
    TOLERANCE,
    Feed,
    exported_session,
    feed,
    random_prompts,
    relative_error,
    transformers_logits,
)
from tiny_checkpoints import (
    LLAMA3_ROPE,
    write_deepseek,
    write_llama,
    write_qwen2,
    write_r1_asa,
    write_transformers,
)

from r1trt.artifacts.build import BuildArtifact
from r1trt.build.config import BuildConfig
from r1trt.build.pipeline import build_engine
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.runtime.load import session_from_engine
from r1trt.runtime.session import Session

CAPACITY, LENGTHS = 64, (37, 23, 30)
CHECKPOINTS: dict[str, Callable[[Path], Path]] = {
    "llama": write_llama,
    "llama-tied-bf16": lambda path: write_llama(path, tie_word_embeddings=True, dtype="bfloat16"),
    "llama3-rope": lambda path: write_llama(path, rope=LLAMA3_ROPE, head_dim=64),
    "llama-narrow-heads": lambda path: write_llama(path, head_dim=8),
    "qwen2": write_qwen2,
    "qwen3": lambda path: write_transformers(path, "Qwen3ForCausalLM", head_dim=32),
    "mistral": lambda path: write_transformers(path, "MistralForCausalLM", sliding_window=None),
    "deepseek": write_deepseek,
}
# Nodes of both layers that tell which form was taken: fused attentions, products, fused norms.
FORMS: dict[str, tuple[int, int, int]] = {
    "llama": (2, 9, 4),
    "llama-tied-bf16": (2, 9, 4),
    "llama3-rope": (2, 9, 4),
    "llama-narrow-heads": (0, 9, 4),
    "qwen2": (2, 9, 4),
    "qwen3": (2, 9, 4),
    "mistral": (2, 9, 4),
}
# Each row alone as others go on, come later, or wait; the last calls have one token a row.
FEEDS: Mapping[str, Feed] = {
    "prefill": [LENGTHS],
    "chunks": [(20, 7, 0), (1, 15, 29), (16, 1, 1)],
    "decode": [(30, 20, 27), *[(1, 1, 1)] * 3, *[(1, 0, 0)] * 4],
}


def engine(checkpoint: Path, directory: Path) -> Path:
    export = export_checkpoint(
        ExportConfig(checkpoint=checkpoint, output=directory / "export", max_seq_len=CAPACITY)
    )
    return build_engine(BuildConfig(model=export, arch="cpu", precision="fp32", output=directory / "engine"))


def graph_of(path: Path) -> ir.Graph:
    return ir.load(BuildArtifact.read(path).cpu_engine).graph


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_call_gives_the_numbers_of_transformers(name: str, tmp_path: Path) -> None:
    checkpoint = CHECKPOINTS[name](tmp_path / "checkpoint")
    path = engine(checkpoint, tmp_path)
    session = session_from_engine(path)
    prompts = random_prompts(LENGTHS, session.limits.vocab_size)
    want = transformers_logits(checkpoint, prompts)
    for how, calls in FEEDS.items():
        for row, got in enumerate(feed(session, prompts, calls)):
            error = relative_error(got, want[row][: len(got)])
            assert error <= TOLERANCE, f"{name}, {how}, row {row}: {error:.2e}"
    alone = feed(session, prompts[:1], [(20,), (16,), (1,)])
    assert relative_error(alone[0], want[0]) <= TOLERANCE


@pytest.mark.parametrize("name", FORMS)
def test_layers_become_few_nodes(name: str, tmp_path: Path) -> None:
    graph = graph_of(engine(CHECKPOINTS[name](tmp_path / "checkpoint"), tmp_path))
    count = Counter(node.op_type for node in graph)
    names = ("GroupQueryAttention", "MatMul", "SkipSimplifiedLayerNormalization")
    assert tuple(count[item] for item in names) == FORMS[name], count


@pytest.mark.parametrize("gate", [True, False])
def test_a_gate_and_a_temperature_keep_their_own_attention(gate: bool, tmp_path: Path) -> None:
    checkpoint = write_r1_asa(tmp_path / "checkpoint", hla_gate=gate)
    path = engine(checkpoint, tmp_path)
    assert not any(node.op_type == "GroupQueryAttention" for node in graph_of(path))
    sessions = [session_from_engine(path), exported_session(checkpoint, tmp_path / "again", CAPACITY)]
    prompts = random_prompts(LENGTHS, sessions[0].limits.vocab_size)
    for how, calls in FEEDS.items():
        got, want = (feed(session, prompts, calls) for session in sessions)
        for row in range(len(prompts)):
            assert relative_error(got[row], want[row]) <= TOLERANCE, f"{how}, row {row}"


def test_weights_lie_in_the_file_once(tmp_path: Path) -> None:
    path = engine(write_qwen2(tmp_path / "checkpoint"), tmp_path)
    stored = [value for value in graph_of(path).initializers.values() if value.const_value is not None]
    exported = ir.load(tmp_path / "export" / "model.onnx").graph.initializers.values()
    elements = sum(value.const_value.size for value in stored if value.const_value)
    tables = 2 * CAPACITY * 16 // 2
    constants = sum(value.const_value.size for value in stored if value.dtype != ir.DataType.FLOAT)
    wanted = sum(value.const_value.size for value in exported if value.dtype == ir.DataType.FLOAT)
    # Two tables in the place of the frequencies that they are made of.
    assert elements - constants == wanted + tables - 16 // 2


def test_rows_move_and_are_cleared_with_their_caches(tmp_path: Path) -> None:
    session = session_from_engine(engine(write_llama(tmp_path / "checkpoint"), tmp_path))
    prompts = random_prompts((20, 20), session.limits.vocab_size)
    want = feed(session, prompts, [(20, 20)])
    session.reset(3)
    step(session, [prompts[0][:12], prompts[1][:12]], 0, first_row=0)
    session.move(0, 2, 12)
    session.clear(0)
    later = step(session, [prompts[1][12:], prompts[0][12:]], 12, first_row=1)
    for row, index in ((0, 1), (1, 0)):
        assert relative_error(later[row], want[index][12:]) <= TOLERANCE, f"row {row + 1}"
    again = step(session, [prompts[1]], 0, first_row=0)
    assert relative_error(again[0], want[1]) <= TOLERANCE


def step(session: Session, tokens: list[np.ndarray[Any, Any]], past: int, *, first_row: int) -> Any:
    ids_BS = np.stack(tokens)
    seq_len_B = np.full(len(ids_BS), ids_BS.shape[1], np.int64)
    return session.step(ids_BS, seq_len_B, np.full(len(ids_BS), past, np.int64), first_row)


def test_a_scoring_engine_has_neither_cache_nor_fused_attention(tmp_path: Path) -> None:
    checkpoint = write_llama(tmp_path / "checkpoint")
    path = cpu_engine(checkpoint, tmp_path, max_seq_len=CAPACITY, rows=3, cache=False)
    assert not any(node.op_type == "GroupQueryAttention" for node in graph_of(path))
    session = session_from_engine(path)
    prompts = random_prompts(LENGTHS, session.limits.vocab_size)
    want = transformers_logits(checkpoint, prompts)
    for row, got in enumerate(feed(session, prompts, [LENGTHS])):
        assert relative_error(got, want[row]) <= TOLERANCE
