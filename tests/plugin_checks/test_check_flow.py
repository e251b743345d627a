"""`r1trt plugins check` and `bench` on the CPU's kernels, and what they do without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness.compile import CACHE, objects
from kernels.build import build_library
from kernels.mutants_rope import MUTANTS

from r1trt.errors import UsageError
from r1trt.plugin_checks import build, check
from r1trt.plugin_checks.context import HOST, Budget, Context
from r1trt.plugin_checks.stages import STAGES

pytestmark = pytest.mark.slow


def run(*arguments: str, rc: int) -> str:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "R1TRT_CACHE": str(CACHE.parent)}
    command = [sys.executable, "-m", "r1trt", "plugins", *arguments]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert result.returncode == rc, result.stdout + result.stderr
    return result.stdout + result.stderr


def content(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.fixture(scope="module")
def receipt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("receipt") / "host.json"
    for command in ("check", "bench"):
        printed = run(command, "--host", "--quick", "--seed", "11", "--receipt", str(path), rc=0)
        assert "no GPU was used, and nothing was timed" in printed
    return path


def test_a_host_run_goes_through_every_stage(receipt: Path) -> None:
    found = content(receipt)
    assert (found["mode"], found["gpu"], found["seed"]) == ("host", None, 11)
    assert list(found["stages"]) == list(STAGES)
    assert all(stage["finished"] and not stage["failures"] for stage in found["stages"].values())
    checks = found["stages"]["check"]["cases"]
    assert {item["operator"] for item in checks} == {"rope", "attention", "moe"}
    assert all(0 < item["error"] <= 1 and "draw=11" in item["name"] for item in checks)
    for stage in ("harness", "graph"):
        items = found["stages"][stage]["cases"]
        assert {item["name"].split()[0] for item in items} == {"rope", "attention", "moe"}
        assert all(0 < error <= 1 for item in items for error in item["errors"])
    moe = next(item for item in found["stages"]["graph"]["cases"] if item["name"] == "moe bf16")
    assert all(changed["tokens_of_another_expert"] > 0 for changed in moe["changed"])
    assert not found["stages"]["graph"]["cuda_graph"]


def test_a_host_run_times_nothing_and_says_why(receipt: Path) -> None:
    stages = content(receipt)["stages"]
    assert "CPU" in stages["sanitize"]["skipped"]
    assert "CPU" in stages["time"]["skipped"]
    assert stages["time"]["rows"] == []
    assert '"us"' not in receipt.read_text()


def test_peers_that_run_on_the_cpu_agree_and_others_say_why_not(receipt: Path) -> None:
    rows = {row["name"]: row for row in content(receipt)["stages"]["time"]["called_once"]}
    prefill = rows["attention prefill, lam zeros, B=1, N=96"]
    for peer in ("FlexAttention, re-laid keys", "FlexAttention, re-laying keys", "FA2 composed"):
        assert prefill["disagreement"][peer] < 0.01
    for row in rows.values():
        assert all(len(why) > 20 for why in row["left_out"].values())
    assert rows["moe layer bf16, 8 experts, top 2, 128/128, T=9"]["disagreement"]["torch._grouped_mm"] < 0.02
    assert rows["rope bf16, temperature, T=2100"]["disagreement"]["torch.compile"] < 0.01


def test_a_run_goes_on_where_the_last_ended(tmp_path: Path) -> None:
    path = tmp_path / "host.json"
    printed = run(
        "check", "--host", "--stage", "check", "--time-budget", "0.001", "--receipt", str(path), rc=4
    )
    assert "not finished: check" in printed
    run("check", "--host", "--stage", "check", "--receipt", str(path), rc=0)
    found = content(path)
    assert list(found["stages"]) == ["build", "check"]
    assert found["stages"]["check"]["finished"]
    for quick in ((), ("--quick",)):
        before = path.read_text()
        run("check", "--host", "--stage", "check", *quick, "--receipt", str(path), rc=0)
        assert path.read_text() == before


def test_some_cases_are_run_alone_and_the_others_later(tmp_path: Path) -> None:
    path = tmp_path / "host.json"
    arguments = ("check", "--host", "--stage", "check", "--receipt", str(path))
    run(*arguments, "--only", "rope", "--only", "nothing", rc=0)
    some = content(path)["stages"]["check"]
    assert {item["operator"] for item in some["cases"]} == {"rope"} and not some["finished"]
    run(*arguments, rc=0)
    all_of_them = content(path)["stages"]["check"]
    assert all_of_them["finished"] and all_of_them["cases"][: len(some["cases"])] == some["cases"]
    assert "found: nothing" in run(*arguments, "--again", "--only", "nothing", rc=2)


def test_a_quick_run_is_no_full_one(tmp_path: Path) -> None:
    path = tmp_path / "host.json"
    for quick in (("--quick",), ()):
        run("check", "--host", "--stage", "check", *quick, "--receipt", str(path), rc=0)
        assert content(path)["stages"]["check"]["quick"] is bool(quick)


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    printed = run("check", "--receipt", str(path), rc=3)
    assert "no GPU: nothing can be checked or timed here" in printed
    assert "--host" in printed
    assert not path.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--sm", "90"),
        ("--sm", "90", "--stage", "build", "--host"),
        ("--time-budget", "0"),
        ("--host", "--plugin-library", __file__),
    ],
    ids=str,
)
def test_options_that_contradict_each_other(arguments: tuple[str, ...]) -> None:
    assert "error: " in run("check", *arguments, rc=UsageError.exit_code)


def test_a_wrong_kernel_fails() -> None:
    """The checks of a library with a planted defect."""
    [defect] = [mutant for mutant in MUTANTS if mutant.name == "the sine's sign"]
    with objects() as cache:
        built = build.build_for_host(cache)
    kernels = build_library(change=defect.change)
    context = Context(
        mode=HOST, sm=90, seed=3, budget=Budget(seconds=100), save=lambda result: None, log=lambda text: None
    )
    result = check.run(
        context, build.Built(plugins=built.plugins, harness=built.harness, kernels=kernels), None
    )
    failed = [item for item in result["cases"] if not item["passed"]]
    assert {item["operator"] for item in failed} == {"rope"}
    assert all("times the tolerance" in item["why"] for item in failed)
    assert [item["name"] for item in result["failures"]] == [item["name"] for item in failed]
