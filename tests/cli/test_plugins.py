"""`r1trt plugins`, and what `r1trt doctor` says of the library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from tiny_plugin_sources import write_tiny_sources

from r1trt.cache import CACHE_VARIABLE
from r1trt.cli import cli, main
from r1trt.errors import BuildError
from r1trt.plugin_checks.build import plugin_library
from r1trt.plugin_checks.machine import header
from r1trt.plugin_checks.receipt import open_receipt
from r1trt.plugin_tools.library import LIBRARY_FILE, LIBRARY_VARIABLE
from r1trt.plugin_tools.sources import SOURCE_VARIABLE


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv(SOURCE_VARIABLE, str(write_tiny_sources(tmp_path / "sources")))
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)
    return tmp_path / "cache"


def doctor(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["doctor", "--json"]) == 0
    plugins: dict[str, Any] = json.loads(capsys.readouterr().out)["plugins"]
    return plugins


RUN = "--time-budget --seed --receipt --plugin-library -o --output --quick --only --again --host --json"
OPTIONS = {
    "build": "--arch -o --output --headers --jobs --json",
    "check": f"--stage --sm {RUN}",
    "bench": RUN,
    "report": "receipt -o --output --json",
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_these(name: str) -> None:
    group = cli.commands["plugins"]
    assert isinstance(group, click.Group) and set(group.commands) == set(OPTIONS)
    found = {option for parameter in group.commands[name].params for option in parameter.opts}
    assert found == set(OPTIONS[name].split())


@pytest.mark.parametrize(
    "arguments", [["check", "--stage", "time"], ["check", "--time-budget", "soon"], ["report", "absent.json"]]
)
def test_wrong_usage_of_the_checks_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", *arguments]) == 2
    assert not capsys.readouterr().out


def test_a_page_is_made_of_a_receipt_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    receipt = open_receipt(
        tmp_path / "receipt.json",
        {**header("host", None), "sources": "abc"},
        seed=1,
    )
    receipt.record(
        "check", {"cases": [{"name": "a", "passed": True, "error": 0.25}], "failures": []}, finished=True
    )
    assert main(["plugins", "report", str(receipt.path), "-o", str(tmp_path / "pages"), "--json"]) == 0
    published = json.loads(capsys.readouterr().out)["published"]
    assert [Path(path).suffix for path in published] == [".json", ".md"]
    assert "| check | 1 | 0 | 0.25 |" in Path(published[1]).read_text()

    assert main(["plugins", "report", str(write_tiny_sources(tmp_path / "x") / "tiny.cu")]) == 1
    assert "receipt" in capsys.readouterr().err


def test_the_checked_library_is_the_newest_or_the_named_one() -> None:
    first = plugin_library(None, 89, lambda text: None)
    assert not first.cached and first.sms == (89,)
    assert plugin_library(None, 89, lambda text: None).sha256 == first.sha256
    assert main(["plugins", "build", "--arch", "all"]) == 0
    second = plugin_library(None, 89, lambda text: None)
    assert second.sha256 != first.sha256
    assert plugin_library(first.path, 89, lambda text: None).sha256 == first.sha256
    with pytest.raises(BuildError, match="no code for the GPU"):
        plugin_library(first.path, 90, lambda text: None)


def test_a_build_prints_its_library(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["plugins", "build", "--arch", "ada", "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert f"{tmp_path}/out/{LIBRARY_FILE}" in printed.out and "SM89" in printed.out
    assert "compiling tiny.cu" in printed.err

    assert main(["plugins", "build", "--arch", "ada", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["cached"] and result["sms"] == [89]
    assert Path(result["path"]).is_relative_to(tmp_path / "cache")


@pytest.mark.parametrize("arguments", [[], ["--arch", "cpu"], ["--arch", "ada", "--jobs", "0"]])
def test_wrong_usage_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "build", *arguments]) == 2
    assert not capsys.readouterr().out


def test_a_missing_compiler_exits_3(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDACXX", "/nonexistent/nvcc")
    assert main(["plugins", "build", "--arch", "ada"]) == 3
    assert "pip install nvidia-cuda-nvcc==" in capsys.readouterr().err
    plugins = doctor(capsys)
    assert plugins["toolchain"] is None and "pip install" in plugins["missing"][0]


def test_doctor_before_and_after_a_build(capsys: pytest.CaptureFixture[str]) -> None:
    before = doctor(capsys)
    assert before["library"] is None and before["missing"] == ["r1trt plugins build --arch all"]
    assert before["toolchain"]["nvcc_version"].count(".") == 2

    assert main(["plugins", "build", "--arch", "ada", "--json"]) == 0
    built = json.loads(capsys.readouterr().out)
    after = doctor(capsys)
    assert (after["library"]["path"], after["library"]["sha256"]) == (built["path"], built["sha256"])
    # These sources have no plugins, and doctor has loaded the library and counted.
    assert after["library"]["problem"] == "it has 0 plugins; 3 expected"

    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "TensorRT plugins:" in text and f"not usable: {built['path']}" in text


def test_doctor_survives_a_library_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.so").write_bytes(b"\x7fELF")
    monkeypatch.setenv(LIBRARY_VARIABLE, str(tmp_path / "x.so"))
    plugins = doctor(capsys)
    assert "Not a plugin library" in plugins["library"]["problem"]
    assert main(["doctor"]) == 0
    assert "not usable" in capsys.readouterr().out
