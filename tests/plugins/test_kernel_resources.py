"""The table of docs/kernels.md against what ptxas says now; and the script's own arithmetic."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from harness.compile import CACHE

from r1trt.cache import CACHE_VARIABLE

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "kernel_resources.py"
LOG = """
ptxas info    : Compiling entry function '_ZN5r1trt7kernels3oneEv' for 'sm_80'
ptxas info    : Function properties for _ZN5r1trt7kernels3oneEv
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 2688 bytes smem, 624 bytes cmem[0]
ptxas info    : Compiling entry function '_ZN5r1trt7kernels3oneEv' for 'sm_90a'
ptxas info    : Function properties for _ZN5r1trt7kernels3oneEv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 38 registers, used 1 barriers
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kernel_resources", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_log_becomes_a_table(script: ModuleType) -> None:
    table = script.parsed("source", LOG)
    row = table["source: one"]
    assert (row["80"].registers, row["80"].spilled_bytes, row["80"].static_shared_bytes) == (40, 16, 2688)
    assert (row["90a"].registers, row["90a"].spilled_bytes) == (38, 0)
    assert script.parsed("without_kernels", "") == {}


def test_what_is_written_is_read_back(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = tmp_path / "kernels.md"
    document.write_text(f"before\n{script.BEGIN}\n{script.END}\nafter\n")
    monkeypatch.setattr(script, "DOCUMENT", document)
    table = script.parsed("source", LOG)
    script.write(table)
    read = script.read_table()
    assert read["source: one"]["80"] == table["source: one"]["80"]
    assert read["source: one"]["90a"].registers == 38
    assert document.read_text().startswith("before\n") and document.read_text().endswith("after\n")


def test_a_comparison_finds_kernels_and_spills(script: ModuleType) -> None:
    table = script.parsed("source", LOG)
    row = table["source: one"]
    assert script.compare(table, table, {"source"}) == []
    more = {"source: one": {"80": replace(row["80"], spilled_bytes=20)}}
    assert script.compare(more, table, {"source"}) == ["source: one: spills 20 bytes on sm_80; 16 are listed"]
    assert script.compare({}, table, {"source"}) == ["source: one: in the table alone"]
    assert script.compare(table, {}, {"source"}) == ["source: one: not in the table"]
    assert script.compare({}, table, {"another"}) == []


@pytest.mark.slow
def test_the_table_is_what_ptxas_says_for_hopper(
    script: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(CACHE.parent))
    status = script.main(["--check", "--sm", "90"])
    assert status == 0, capsys.readouterr()


def test_an_unknown_source_is_refused(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--source", "nothing"]) == 1
    assert "nothing" in capsys.readouterr().err
