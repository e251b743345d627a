"""The example of docs/validation.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tiny_checkpoints import write_llama

from r1trt.export.export import ExportConfig, export_checkpoint

PAGE = Path(__file__).parents[2] / "docs" / "validation.md"


def test_the_example_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = write_llama(tmp_path / "checkpoint", tokenizer=True, max_position_embeddings=512)
    engine = export_checkpoint(
        ExportConfig(checkpoint=checkpoint, output=tmp_path / "export", max_seq_len=512)
    )
    [example] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(example, str(PAGE), "exec"), {"checkpoint": checkpoint, "engine": engine})
    verdict, divergence, perplexity = capsys.readouterr().out.splitlines()
    assert (verdict, divergence) == ("passed", "KL divergence 0.0000 nats")
    assert re.fullmatch(r"perplexity [+-]0\.00%", perplexity)
