"""Exports that the tests of this folder build from."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_checkpoints import write_llama, write_r1_asa

from r1trt.export.export import ExportConfig, export_checkpoint

CAPACITY = 64


@pytest.fixture(scope="session")
def r1_asa_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers: heads of 64, 8 experts and a shared one, blocks of 8, a KV cache of 64 tokens."""
    directory = tmp_path_factory.mktemp("r1_asa")
    sizes = {"num_shared_experts": 1, "shared_intermediate_size": 32, "head_dim": 64}
    write_r1_asa(directory / "checkpoint", tokenizer=True, **sizes)
    config = ExportConfig(
        checkpoint=directory / "checkpoint", output=directory / "export", max_seq_len=CAPACITY
    )
    return export_checkpoint(config)


@pytest.fixture(scope="session")
def llama_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama with BF16 weights."""
    directory = tmp_path_factory.mktemp("llama")
    write_llama(directory / "checkpoint", dtype="bfloat16", tokenizer=True, head_dim=64)
    config = ExportConfig(
        checkpoint=directory / "checkpoint", output=directory / "export", max_seq_len=CAPACITY
    )
    return export_checkpoint(config)
