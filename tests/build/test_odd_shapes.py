"""Head counts and sizes at which the builder's fused attention ends in a check of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_checkpoints import write_llama, write_r1_asa

from r1trt.artifacts import BuildArtifact
from r1trt.build.config import BuildConfig
from r1trt.build.pipeline import build_engine
from r1trt.export.export import ExportConfig, export_checkpoint

SHAPES = [(3, 1, 16), (1, 1, 64), (4, 4, 8), (4, 2, 20), (4, 1, 264), (7, 7, 18)]


def build(checkpoint: Path, precision: str) -> BuildArtifact:
    export, output = checkpoint.parent / "export", checkpoint.parent / "engine"
    export_checkpoint(ExportConfig(checkpoint=checkpoint, output=export, max_seq_len=64))
    built = build_engine(BuildConfig(model=export, arch="ada", precision=precision, output=output))
    return BuildArtifact.read(built)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_they_build(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    heads, kv_heads, size = shape
    checkpoint = write_llama(
        tmp_path / "checkpoint", hidden_size=heads * size, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=size,
    )  # fmt: skip
    assert build(checkpoint, "bf16").manifest.is_finished


def test_two_heads_with_a_block_branch_build(tmp_path: Path) -> None:
    checkpoint = write_r1_asa(tmp_path / "checkpoint", num_attention_heads=2, num_key_value_heads=1)
    assert build(checkpoint, "bf16").manifest.is_finished
