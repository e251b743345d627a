"""Cases, sizes of buffers, receipts, and the sanitizer's process."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness.compile import objects
from kernels.build import build_library

from r1trt.errors import BuildError, ConfigError
from r1trt.plugin_checks import build, host_build, sanitize
from r1trt.plugin_checks.cases import attention_cases, moe_cases
from r1trt.plugin_checks.cases.arrays import aligned
from r1trt.plugin_checks.cases.operators import OPERATORS
from r1trt.plugin_checks.cases.selection import LARGER, cases_of, drawn, fitted
from r1trt.plugin_checks.context import GPU, Budget, Context
from r1trt.plugin_checks.device_kernels import DeviceKernels
from r1trt.plugin_checks.extents import extents, pointer
from r1trt.plugin_checks.receipt import open_receipt, read_receipt
from r1trt.plugin_tools.targets import arch_of, target_sm
from r1trt.plugin_tools.toolchain import toolchain_from_machine


@pytest.fixture(scope="module")
def library() -> DeviceKernels:
    return DeviceKernels(build_library(), on_gpu=False)


def arrays_of(problem: object) -> Iterator[np.ndarray]:
    for value in vars(problem).values():
        if isinstance(value, np.ndarray):
            yield value
        elif isinstance(value, moe_cases.Weight):
            for data, scale in value.cut or [(value.data, value.scale)]:
                yield data
                if scale is not None:
                    yield scale


@pytest.mark.parametrize("cases", [attention_cases, moe_cases], ids=["attention", "moe"])
def test_buffers_are_as_large_as_the_arrays(library: DeviceKernels, cases: Any) -> None:
    for case in cases.CASES:
        problem = cases.make_problem(case)
        if isinstance(problem, moe_cases.Problem):
            shape = problem.x.shape
        else:
            shape = (case.batch, case.seq, case.heads, case.v)
        y = aligned(shape, problem.x.dtype if isinstance(problem, moe_cases.Problem) else problem.q.dtype)
        params = cases.arguments(library, case, problem, y)
        sizes = {array.ctypes.data: array.nbytes for array in [*arrays_of(problem), y]}
        found = extents(params)
        assert found
        for path, size in found.items():
            assert size == sizes[pointer(params, path) or 0], f"{case}: {path}"


def test_a_draw_is_another_case_of_the_same_sizes() -> None:
    for name in OPERATORS:
        for case in [*OPERATORS[name].cases, *LARGER[name]]:
            first, second = drawn(case, 1), drawn(case, 2)
            assert str(first) != str(second)
            assert first.generator().random() != second.generator().random()
            assert first.generator().random() == drawn(case, 1).generator().random()
            fields = {item.name: getattr(case, item.name) for item in dataclasses.fields(case)}
            assert fields == {key: getattr(first, key) for key in fields}


def test_cases_are_fitted_to_the_gpu() -> None:
    newest, old = moe_cases.MoeCase(), moe_cases.MoeCase(sm=80)
    assert [fitted(case, 100, on_gpu=True).sm for case in (newest, old)] == [100, 80]
    assert [fitted(case, 80, on_gpu=True).sm for case in (newest, old)] == [80, 80]
    attention = attention_cases.AttentionCase()
    assert fitted(attention, 90, on_gpu=True).num_sms == 0
    assert fitted(attention, 90, on_gpu=False).num_sms == attention.num_sms
    names = [str(case) for name in OPERATORS for case in cases_of(name, on_gpu=True, quick=False)]
    assert len(names) > sum(len(operator.cases) for operator in OPERATORS.values())


HEADER = {
    "mode": "host", "sources": "abc", "plugin_library": None, "gpu": None, "sm": None, "driver": None,
    "cuda_driver": None, "python": "3.11", "packages": {}, "commit": None,
}  # fmt: skip
FAILED = {"failures": [{"name": "a", "why": "b"}], "cases": [{"name": "a", "passed": False, "why": "b"}]}


def test_a_receipt_is_gone_on_with_only_if_it_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "receipt.json"
    first = open_receipt(path, HEADER, seed=5)
    first.record("check", FAILED, finished=False)
    again = open_receipt(path, HEADER, seed=None)
    assert again.seed == 5
    assert again.stage("check") == first.stage("check")
    assert not again.is_finished("check")
    assert again.failures == ["check: a: b"]
    assert "check" in again.unfinished
    assert not open_receipt(path, HEADER, seed=6).content["stages"]
    assert not open_receipt(path, {**HEADER, "sources": "abd"}, seed=None).content["stages"]
    assert not open_receipt(path, {**HEADER, "gpu": "another"}, seed=None).content["stages"]
    assert not open_receipt(path, {**HEADER, "plugin_library": "f00d"}, seed=None).content["stages"]


@pytest.mark.parametrize(
    "text",
    ["[]", "my notes", '{"kind": "engine"}', "[" * 100_000, '{"schema": 1, "kind": "gpu-check"}'],
    ids=["list", "text", "another kind", "nested", "damaged"],
)
def test_what_is_not_a_receipt_is_refused_and_stays(tmp_path: Path, text: str) -> None:
    path = tmp_path / "receipt.json"
    path.write_text(text)
    for use in (lambda: read_receipt(path), lambda: open_receipt(path, HEADER, seed=None)):
        with pytest.raises(ConfigError, match=r"receipt\.json"):
            use()
    assert path.read_text() == text


@pytest.mark.parametrize("text", ["", '{"schema": 99, "kind": "gpu-check"}'], ids=["empty", "version"])
def test_an_empty_file_and_a_receipt_of_another_version_are_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "receipt.json"
    path.write_text(text)
    with pytest.raises(ConfigError):
        read_receipt(path)
    assert open_receipt(path, HEADER, seed=None).content["stages"] == {}


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"mode": "quick"}, "mode"),
        ({"started": "../../elsewhere"}, "started"),
        ({"seed": -1}, "seed"),
        ({"packages": {"torch": 2}}, "packages.torch"),
        ({"stages": {"check": None}}, "stages.check"),
        ({"stages": {"cook": {}}}, "cook"),
        ({"stages": {"check": {**FAILED, "finished": True, "cases": [{"name": "a"}]}}}, "passed"),
        ({"stages": {"build": {"finished": True, "failures": [], "files": {}}}}, "files.kernels"),
        ({"stages": {"time": {"finished": True, "failures": [], "rows": [{"name": "a"}]}}}, "rows[0].times"),
    ],
    ids=str,
)
def test_a_damaged_receipt_is_refused_by_its_keys(
    tmp_path: Path, changed: dict[str, Any], problem: str
) -> None:
    receipt = open_receipt(tmp_path / "receipt.json", HEADER, seed=1)
    receipt.save()
    assert read_receipt(receipt.path).seed == 1
    receipt.content.update(changed)
    receipt.save()
    with pytest.raises(ConfigError, match=re.escape(problem)):
        read_receipt(receipt.path)


def test_a_receipt_holds_no_number_that_json_has_not(tmp_path: Path) -> None:
    receipt = open_receipt(tmp_path / "receipt.json", HEADER, seed=1)
    with pytest.raises(ValueError, match="JSON"):
        receipt.record("check", {"error": float("nan")}, finished=False)


def program(folder: Path, text: str) -> Path:
    """A program in compute-sanitizer's place."""
    path = folder / "compute-sanitizer"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def sanitized(
    folder: Path, text: str, monkeypatch: pytest.MonkeyPatch, seconds: float = 50
) -> dict[str, Any]:
    program(folder, text)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    context = Context(
        mode=GPU,
        sm=90,
        seed=1,
        budget=Budget(seconds=seconds),
        save=lambda result: None,
        log=lambda text: None,
    )
    built = build.Built(plugins=folder / "p.so", harness=folder / "h.so", kernels=folder / "k.so")
    return sanitize.run(context, built, None)


def test_every_tool_sees_every_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = sanitized(tmp_path, f'echo "$@" >> {tmp_path}/calls', monkeypatch)
    assert result["finished"]
    assert result["failures"] == []
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == len(result["runs"]) == 6
    calls.sort()
    assert calls[2].startswith("--tool memcheck --error-exitcode 66")
    assert calls[2].endswith(f"-m r1trt.plugin_checks.check_child {tmp_path}/k.so rope 90 1")


def test_a_report_and_a_failing_case_are_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = sanitized(tmp_path, "echo Invalid __global__ write; exit 66", monkeypatch)
    assert "a report: Invalid __global__ write" in result["failures"][0]["why"]
    result = sanitized(tmp_path, "exit 1", monkeypatch)
    assert "exit status 1" in result["failures"][0]["why"]


def test_a_sanitizer_is_ended_with_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = sanitized(tmp_path, "sleep 20", monkeypatch, seconds=0.5)
    assert not result["finished"]
    assert result["runs"] == []


def test_the_cuda_sources_compile() -> None:
    """What only a GPU runs its compiler accepts; `moe_stages.cu` leans on the kernels' inner headers."""
    chain = toolchain_from_machine()
    sources = [build.native_compilation(chain, path, sm=90) for path in (build.CUDA_MEMORY, build.MOE_STAGES)]
    with objects() as cache:
        assert all(compiled.path.is_file() for compiled in cache.objects(sources))


def test_a_cxx_library_that_is_linked_statically_stays_inside() -> None:
    """Or its locale is mixed with that of another version in the process, and printing a number crashes."""
    flags = (*host_build.HARNESS_LINK_FLAGS, "-static-libstdc++")
    with objects() as cache:
        sources = [
            host_build.cxx_compilation(path, (*host_build.PLUGIN_FLAGS, *host_build.OWN_HEADERS.flags))
            for path in sorted(host_build.HARNESS.glob("*.cpp"))
        ]
        library = host_build.linked(cache, "harness-static", sources, flags)
    command = ["nm", "--dynamic", "--defined-only", "--demangle", str(library)]
    symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "harness_creators" in symbols
    assert "std::locale" not in symbols
    assert "std::num_put" not in symbols


def test_architectures_by_compute_capability() -> None:
    assert [arch_of(sm) for sm in (80, 86, 89, 90)] == ["ampere", "ampere", "ada", "hopper"]
    assert [target_sm(sm) for sm in (80, 87, 90, 103, 121)] == [80, 86, 90, 100, 120]
    with pytest.raises(BuildError, match="not built for this GPU"):
        arch_of(70)
