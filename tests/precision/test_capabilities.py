"""The table of what builders execute: its reader, its document, and the builder itself for two forms."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from scripts_under_test import REPOSITORY, run_script

from r1trt.arch import ARCHITECTURES, LIBRARIES
from r1trt.errors import PlanError
from r1trt.precision.capabilities import CAPABILITIES, Capability, capabilities_of

VERSION = "1.7.1.116"
FP8 = {
    "verdict": "executed",
    "products": [["fp8_e4m3", "fp8_e4m3", "bf16"]],
    "weight": "fp8_e4m3",
    "weight_bytes": 98304,
    "engine_bytes": 243772,
}
FAILS = {"verdict": "fails", "reason": "Cannot compile"}


def written(path: Path, document: dict[str, Any]) -> Path:
    table = path / "capabilities.json"
    table.write_text(json.dumps(document), encoding="utf-8")
    return table


@pytest.fixture
def table(tmp_path: Path) -> Path:
    older, newer = {"89": {"fp8": FAILS}}, {"80": {"fp8": FAILS}, "89": {"fp8": FP8}}
    return written(
        tmp_path, {"rtx 1.9.2.3": older, "rtx 1.10.0.1": newer, "rtx-lean 2.0": {"89": {"fp8": FAILS}}}
    )


def test_a_form_is_read(table: Path) -> None:
    found = capabilities_of("1.10.0.1", 89, builder="rtx", table=table)
    assert (found.builder, found.version, found.sm, found.note) == ("rtx", "1.10.0.1", 89, "")
    assert found.executes("fp8")
    assert found["fp8"] == Capability(
        verdict="executed",
        products=(("fp8_e4m3", "fp8_e4m3", "bf16"),),
        weight="fp8_e4m3",
        weight_bytes=98304,
        engine_bytes=243772,
    )
    refused = capabilities_of("1.10.0.1", 80, builder="rtx", table=table)
    assert refused["fp8"].reason == "Cannot compile"
    assert not refused.executes("fp8")


def test_the_newest_version_stands_in_for_one_that_was_not_measured(table: Path) -> None:
    assert not capabilities_of("1.9.2.3", 89, builder="rtx", table=table).executes("fp8")
    found = capabilities_of("1.11", 89, builder="rtx", table=table)
    assert (found.version, found.executes("fp8")) == ("1.10.0.1", True)
    assert found.note == "rtx 1.11 was not measured: 1.10.0.1 was"


@pytest.mark.parametrize(
    ("builder", "sm", "says"),
    [
        ("tensorrt", 89, "Nothing was measured of the builder tensorrt"),
        ("rtx", 90, r"found: SM90\n.*expected: SM80 \| SM89"),
    ],
)
def test_what_was_not_measured_is_refused(table: Path, builder: str, sm: int, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        capabilities_of("1.10.0.1", sm, builder=builder, table=table)


def test_an_unknown_form_is_refused(table: Path) -> None:
    found = capabilities_of("1.10.0.1", 89, builder="rtx", table=table)
    with pytest.raises(
        PlanError, match=r"(?s)Unknown form.*rtx 1\.10\.0\.1, SM89.*found: fp4.*expected: fp8"
    ):
        found.executes("fp4")


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"rtx 1": {"89": {"fp8": {"verdict": "runs"}}}}, r"rtx 1\.89\.fp8\.verdict: 'runs', expected exec"),
        ({"rtx 1": {"89": {"fp8": {}}}}, r"rtx 1\.89\.fp8\.verdict: missing"),
        ({"rtx 1": {"89": {"fp8": FP8 | {"weight_bytes": -1}}}}, "weight_bytes: -1, expected a size"),
        ({"rtx 1": {"89": {"fp8": FP8 | {"products": ["fp8"]}}}}, r"products\[0\]: 'fp8', expected a list"),
        ({"rtx 1": {"sm89": {}}}, r"rtx 1\.sm89: not a number"),
        ({"rtx 1": []}, r"rtx 1: \[\], expected an object"),
    ],
)  # fmt: skip
def test_a_table_that_is_none_is_refused(tmp_path: Path, document: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        capabilities_of("1", 89, builder="rtx", table=written(tmp_path, document))


def test_an_absent_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot be read"):
        capabilities_of("1", 89, table=tmp_path / "capabilities.json")


def test_the_table_is_of_the_builder_that_is_used() -> None:
    version = metadata.version(LIBRARIES["tensorrt-rtx"].package)
    for sm in {sm for arch in ARCHITECTURES.values() for sm in arch.offline_sms}:
        assert capabilities_of(version, sm).note == ""


@pytest.mark.parametrize("sm", [89, 120])
def test_what_the_lowerings_and_traps_rely_on(sm: int) -> None:
    found = capabilities_of(VERSION, sm)
    for form in ("bf16", "fp32", "fp8", "fp8_rows", "experts_fp8_scaled_after"):
        assert found.executes(form), form
    assert found["fp8_blocks"].verdict == "miscompiled"
    assert found["experts_fp8_scales"].verdict == "falls back"
    assert found["attention_fp8"].verdict == "falls back"


@pytest.mark.parametrize("sm", [80, 86])
def test_fp8_fails_where_the_architectures_say_so(sm: int) -> None:
    found = capabilities_of(VERSION, sm)
    fp8 = {name: item.verdict for name, item in found.forms.items() if "fp8" in name}
    assert set(fp8.values()) == {"fails"}
    assert found.executes("int8_rows")


def test_the_document_shows_the_table() -> None:
    text = (REPOSITORY / "docs" / "benchmarks" / "builder-capabilities.md").read_text()
    table = json.loads(CAPABILITIES.read_text())
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == sorted(table, reverse=True)
    for builder, targets in table.items():
        part = text.partition(f"## {builder}\n")[2].partition("\n## ")[0]
        for form in {form for forms in targets.values() for form in forms}:
            verdicts = [targets[sm][form]["verdict"] for sm in sorted(targets, key=int)]
            assert re.search(rf"\| `{form}` \| [^|]+ \| {re.escape(' | '.join(verdicts))} \|", part), form


def test_the_reader_loads_no_library() -> None:
    code = "import sys, r1trt.precision.capabilities; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "onnx", "onnx_ir", "torch", "tensorrt_rtx"} & set(loaded.stdout.split())


@pytest.mark.slow
def test_the_builder_still_does_what_the_table_says() -> None:
    forms = ["--form", "fp8_rows", "--form", "attention_fp8"]
    result = run_script(REPOSITORY / "scripts" / "builder_capabilities.py", "--check", "--sm", 89, *forms)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "does what capabilities.json says" in result.stdout
    assert result.stderr.splitlines() == ["fp8_rows, SM89: executed", "attention_fp8, SM89: falls back"]
