"""CPU engines for the scheduler and for the real server, and the fixture of a tiny one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_checkpoints import write_llama

from r1trt.arch import BuildPrecision
from r1trt.build.config import BuildConfig
from r1trt.build.pipeline import build_engine
from r1trt.export.export import ExportConfig, export_checkpoint

TINY_ROWS, TINY_CAPACITY = 4, 64


def cpu_engine(
    checkpoint: Path,
    directory: Path,
    *,
    max_seq_len: int,
    rows: int,
    cache: bool = True,
    last_token_logits: bool = True,
    precision: BuildPrecision = "fp32",
) -> Path:
    """Exports and builds; the build is `directory / "engine"`."""
    export = ExportConfig(
        checkpoint=checkpoint,
        output=directory / "export",
        max_seq_len=max_seq_len,
        last_token_logits=cache and last_token_logits,
    )
    build = BuildConfig(
        model=export_checkpoint(export),
        arch="cpu",
        precision=precision,
        max_batch_size=rows,
        max_input_len=min(64, max_seq_len),
        cache=cache,
        output=directory / "engine",
    )
    return build_engine(build)


@pytest.fixture(scope="session")
def tiny_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    checkpoint = write_llama(directory / "checkpoint", tokenizer=True, seed=4)
    return cpu_engine(checkpoint, directory, max_seq_len=TINY_CAPACITY, rows=TINY_ROWS)
