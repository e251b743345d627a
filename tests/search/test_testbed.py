"""The trained R1-ASA: its weights are worth losing, and a search finds what it can lose."""

from __future__ import annotations

from pathlib import Path

import pytest

from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.search.config import Budget, SearchConfig
from r1trt.search.run import search_precision

CHECKPOINT = Path(__file__).parents[1] / "data" / "r1_asa_bytes"


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("bytes") / "export"
    return export_checkpoint(ExportConfig(checkpoint=CHECKPOINT, output=output, max_seq_len=512))


def test_the_directory_is_small() -> None:
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) < 8_000_000


@pytest.mark.slow
def test_a_trained_mixture_is_searched(export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R1TRT_CACHE", str(tmp_path / "cache"))
    config = SearchConfig(
        model=export, arch="blackwell", budget=Budget(kl=0.001), output=tmp_path / "found",
        screen_tokens=256, search_tokens=2048, final_tokens=2048,
    )  # fmt: skip
    found, _ = search_precision(config)
    narrow = next(point for point in found.points if point.name == "all FP8")
    assert narrow.final is not None and found.chosen.final is not None
    # A model of random weights would have hundreds.
    assert 3.5 < found.chosen.final.perplexity_exact < 6.0
    assert found.chosen.final.kl.mean < 0.0012 < narrow.final.kl.high
    assert found.chosen.fp8_share > 0.3
