"""`r1trt estimate` and `r1trt export --dry-run`: what they print, and that they write nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_checkpoints import write_llama

from r1trt import machine
from r1trt.cli import main
from r1trt.export.export import ExportConfig, export_checkpoint


def result(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    loaded: dict[str, object] = json.loads(capsys.readouterr().out)
    return loaded


def test_a_known_model_as_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "r1-70b", "--batch", "8", "--max-seq-len", "8192"]) == 0
    page = capsys.readouterr().out
    for text in (
        "70.55 billion",
        "21.5 GB for 8 x 8192",
        "no weights were seen",
        "rtx4090",
        "h200",
        "at best",
    ):
        assert text in page, text


def test_a_known_model_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "qwen3-8b", "--json"]) == 0
    found = result(capsys)
    assert found["parameters"] == 8_190_735_360 and found["from_headers"] is False


def test_checkpoint_export_and_config_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = write_llama(tmp_path / "model")
    export = export_checkpoint(
        ExportConfig(checkpoint=checkpoint, output=tmp_path / "export", max_seq_len=64)
    )
    counts = []
    for source in (checkpoint, export, checkpoint / "config.json"):
        assert main(["estimate", str(source), "--max-seq-len", "64", "--json"]) == 0
        found = result(capsys)
        counts.append((found["parameters"], found["weight_bytes"], found["placements"]))
    assert counts[0] == counts[1] == counts[2]


def test_a_folder_with_a_config_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = write_llama(tmp_path / "model")
    (checkpoint / "model.safetensors").unlink()
    assert main(["estimate", str(checkpoint), "--json"]) == 0
    assert result(capsys)["from_headers"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["r1-71b"], "There is no such model"),
        (["qwen3-8b", "--max-seq-len", "50000"], "--max-seq-len"),
        (["qwen3-8b", "--max-seq-len", "64", "--max-input-len", "65"], "more tokens than the KV cache"),
    ],
)
def test_what_cannot_be_estimated(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_dry_run_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = write_llama(tmp_path / "model")
    before = sorted(tmp_path.rglob("*"))
    assert main(["export", "model", "--dry-run", "--copy", "--max-seq-len", "64"]) == 0
    page = capsys.readouterr().out
    assert "nothing was written; an export would be in engines/model" in page and "export --copy" in page
    assert main(["export", str(checkpoint), "--dry-run", "--json"]) == 0
    found = result(capsys)
    assert found["dry_run"] is True and found["capacity"] == 256
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_checks_what_an_export_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = write_llama(tmp_path / "model")
    assert main(["export", str(checkpoint), "--dry-run", "--max-seq-len", "1000"]) == 1
    assert "--max-seq-len is beyond" in capsys.readouterr().err
    assert main(["export", str(checkpoint), "--dry-run", "-o", str(tmp_path)]) == 1
    assert "holds the checkpoint" in capsys.readouterr().err
    (checkpoint / "model.safetensors").write_bytes(b"short")
    assert main(["export", str(checkpoint), "--dry-run"]) == 1
    assert "truncated" in capsys.readouterr().err


def test_a_build_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export = export_checkpoint(
        ExportConfig(checkpoint=write_llama(tmp_path / "model"), output=tmp_path / "export", max_seq_len=64)
    )
    assert main(["build", str(export), "--arch", "cpu", "--json"]) == 0
    assert "estimated: " in capsys.readouterr().err
    assert main(["estimate", str(export / "cpu-fp32")]) == 1
    assert "r1trt inspect" in capsys.readouterr().err


def test_an_export_with_another_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export = export_checkpoint(
        ExportConfig(checkpoint=write_llama(tmp_path / "model"), output=tmp_path / "export", max_seq_len=64)
    )
    manifest = export / "manifest.json"
    document = json.loads(manifest.read_text())
    document["config"]["num_hidden_layers"] = 3
    manifest.write_text(json.dumps(document))
    assert main(["estimate", str(export)]) == 1
    assert "9 tensors are missing, first model.layers.2." in capsys.readouterr().err


def test_a_validation_that_does_not_fit_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    export = export_checkpoint(
        ExportConfig(checkpoint=write_llama(tmp_path / "model"), output=tmp_path / "export", max_seq_len=64)
    )
    limit = tmp_path / "memory.max"
    limit.write_text("100000\n")
    monkeypatch.setattr(machine, "CONTAINER_LIMITS", (limit,))
    assert main(["validate", str(export)]) == 3
    assert "too little memory" in capsys.readouterr().err
