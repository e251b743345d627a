"""`r1trt serve` where no server is started; `tests/triton_server` has what it does with one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from small_engine import TENSORRT, manifest, repository_manifest
from typical_manifests import EXPORT

from r1trt.artifacts.manifest import write_manifest
from r1trt.cache import CACHE_VARIABLE
from r1trt.cli import main

ENGINE = manifest()
REPOSITORY = repository_manifest()


@pytest.mark.parametrize(
    ("document", "options", "code", "message"),
    [
        ({**ENGINE, "engines": []}, [], 1, "not finished"),
        ({**ENGINE, "cache": False}, [], 1, "no KV cache"),
        (manifest(**TENSORRT), [], 3, "for a CPU only"),
        ({**ENGINE, "source": {"model_name": "a/b"}}, [], 1, "with --model-name"),
        (ENGINE, ["--http-port", "9000", "--grpc-port", "9000"], 2, "ports have to differ"),
        (ENGINE, ["--openai-port", "8001"], 2, "ports have to differ"),
        (ENGINE, ["--openai-host", "0.0.0.0"], 2, "say where, with --openai-port"),
        (ENGINE, ["--openai-port", "9000", "--api-key-file", "/dev/null"], 1, "not a regular file"),
        (ENGINE, ["--rows", "5"], 1, "not built for so many rows"),
        (ENGINE, ["--http-port", "0"], 2, "--http-port"),
        (ENGINE, ["--threads", "0"], 2, "--threads"),
        (ENGINE, ["--drain-seconds", "nan"], 2, "--drain-seconds is no time"),
        (EXPORT, [], 1, "not a build"),
        (repository_manifest(backend="tensorrt"), [], 3, "for a CPU only"),
        (repository_manifest(cache=False), [], 1, "no KV cache"),
        (REPOSITORY, ["--rows", "2"], 1, "has its own name and limits"),
        (REPOSITORY, ["--model-name", "other"], 1, "has its own name and limits"),
    ],
)
def test_what_cannot_be_served(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    document: dict[str, Any],
    options: list[str],
    code: int,
    message: str,
) -> None:
    write_manifest(tmp_path, document)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    assert main(["serve", str(tmp_path), *options]) == code
    printed = capsys.readouterr()
    assert message in printed.err and not printed.out
    assert not (tmp_path / "cache").exists(), "nothing is installed for what cannot be served"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{0}", "{0}"], 2, "Two models have one name"),
        (["a={0}", "a={0}"], 2, "another-name="),
        (["{0}", "b={0}", "--model-name", "a"], 2, "write NAME=ENGINE for each"),
        (["b={0}", "--model-name", "a"], 2, "write NAME=ENGINE for each"),
        (["b c={0}"], 1, "cannot be the name of a Triton model"),
        (["b={0}/gone"], 2, "does not exist"),
        (["{0}", "b={0}", "--rows", "5"], 1, "not built for so many rows"),
        (["{0}", "b={1}"], 1, "has its own name and limits"),
    ],
)
def test_several_that_cannot_be_served_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    for name, document in (("build", ENGINE), ("repository", REPOSITORY)):
        (tmp_path / name).mkdir()
        write_manifest(tmp_path / name, document)
    places = [str(tmp_path / name) for name in ("build", "repository")]
    assert main(["serve", *(argument.format(*places) for argument in arguments)]) == code
    printed = capsys.readouterr()
    assert message in printed.err and not printed.out


@pytest.mark.parametrize("variable", ["TMPDIR", CACHE_VARIABLE])
def test_folders_that_a_shell_would_take_apart_are_refused(
    tmp_path: Path, variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build, folder = tmp_path / "build", tmp_path / "a folder; $(touch x)"
    build.mkdir()
    folder.mkdir()
    write_manifest(build, ENGINE)
    monkeypatch.setenv(variable, str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert main(["serve", str(build)]) == 3
    printed = capsys.readouterr().err
    assert "hands it to a shell" in printed and f"fix: set {variable} to" in printed
    assert not list(folder.iterdir())


def test_json_has_the_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_manifest(tmp_path, {**ENGINE, "cache": False})
    assert main(["serve", str(tmp_path), "--json"]) == 1
    assert "KV cache" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_without_the_package_index_the_message_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(tmp_path, ENGINE)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    assert main(["serve", str(tmp_path)]) == 3
    assert "package index" in capsys.readouterr().err


def test_a_python_that_is_too_new_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(tmp_path, ENGINE)
    monkeypatch.setattr(sys, "version_info", (3, 14, 0, "final", 0))
    assert main(["serve", str(tmp_path)]) == 3
    assert "needs an older Python" in capsys.readouterr().err
