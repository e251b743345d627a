"""Whole validations of tiny models: what passes, what fails, and what the report says."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from fp8_checkpoints import quantize_checkpoint
from safetensors.torch import load_file, save_file
from tiny_checkpoints import write_llama, write_r1_asa

from r1trt.artifacts.repository import RepositoryManifest
from r1trt.artifacts.validation import ValidationArtifact, ValidationSummary
from r1trt.build.config import BuildConfig
from r1trt.build.pipeline import build_engine
from r1trt.errors import ConfigError, R1TrtError, UnavailableError, ValidationError
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.validate.config import ValidateConfig
from r1trt.validate.layer_values import layer_values
from r1trt.validate.report import ValidationReport
from r1trt.validate.validate import validate_engine

CAPACITY = 96
TOKENS = 300


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama") / "checkpoint", tokenizer=True, head_dim=64)


@pytest.fixture(scope="module")
def export(checkpoint: Path) -> Path:
    return exported(checkpoint, checkpoint.parent / "export")


def exported(checkpoint: Path, output: Path, **options: Any) -> Path:
    return export_checkpoint(
        ExportConfig(checkpoint=checkpoint, output=output, max_seq_len=CAPACITY, **options)
    )


def validated(directory: Path, **options: Any) -> ValidationReport:
    return validate_engine(ValidateConfig(engine=directory, max_tokens=TOKENS, **options))


def summary_of(directory: Path) -> ValidationSummary:
    """The result beside an artifact, which speaks of its manifest as it is."""
    validation = ValidationArtifact.read(directory)
    assert validation is not None and validation.is_current
    return validation.document.summary


def executed(report: ValidationReport) -> list[str]:
    return [stage.name for stage in report.stages if stage.opened is not None]


class VoidAwareParser(HTMLParser):
    """Checks that what is opened is closed, in order."""

    VOID = frozenset({"meta", "br", "link", "hr", "img", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_text(directory: Path) -> str:
    page = (directory / "report.html").read_text(encoding="utf-8")
    assert 'src="' not in page and "@import" not in page, "the page stands alone"
    parser = VoidAwareParser()
    parser.feed(page)
    parser.close()
    assert not parser.open
    return parser.text


def test_export_passes_and_reports(export: Path) -> None:
    before = (export / "manifest.json").read_bytes()
    report = validated(export)
    assert (export / "manifest.json").read_bytes() == before, "a published manifest stays as it is"
    assert report.passed and executed(report) == ["checkpoint", "exported"]
    figures = report.comparisons[0].figures
    assert figures.logits.tokens == TOKENS
    assert figures.logits.kl_mean < 1e-9 and figures.logits.agreement == 1
    assert sorted(figures.layers) == ["model.layers.0.mlp_residual", "model.layers.1.mlp_residual"]
    assert all(error.relative_rms < 1e-5 for error in figures.layers.values())
    written = json.loads((export / "validation.json").read_text())
    assert written["schema"] == report.to_dict()["schema"] == 1
    assert written["passed"] and written["comparisons"][0]["tokens"] == TOKENS
    summary = summary_of(export)
    assert summary.passed and summary.tested == "exported"
    assert summary.kl_mean is not None and summary.kl_mean < 1e-9
    assert "Passed" in page_text(export)
    assert not [path for path in export.iterdir() if path.name.endswith(".tmp")]


@pytest.mark.parametrize("window", [31, 500])
def test_windows_longer_than_the_cache_are_cut(export: Path, window: int) -> None:
    assert validated(export, window=window).passed


def test_r1_asa_export_passes(tmp_path: Path) -> None:
    checkpoint = write_r1_asa(tmp_path / "checkpoint", tokenizer=True, hla_gate=True)
    report = validated(exported(checkpoint, tmp_path / "export"))
    assert report.passed and report.decisive.figures.layers


def test_last_token_logits_are_compared_token_by_token(checkpoint: Path, tmp_path: Path) -> None:
    report = validated(exported(checkpoint, tmp_path / "export", last_token_logits=True))
    assert report.passed and report.decisive.figures.logits.tokens == TOKENS


def test_cpu_engine_passes(export: Path, tmp_path: Path) -> None:
    engine = build_engine(BuildConfig(model=export, arch="cpu", output=tmp_path / "cpu", max_input_len=40))
    report = validated(engine, reference=None)
    assert executed(report) == ["checkpoint", "exported", "cpu"] and report.passed


def test_export_that_has_changed_since_is_not_compared(export: Path, tmp_path: Path) -> None:
    copy = tmp_path / "export"
    shutil.copytree(export, copy)
    engine = build_engine(BuildConfig(model=copy, arch="cpu", output=tmp_path / "cpu", max_input_len=40))
    with (copy / "model.onnx").open("ab") as graph:
        graph.write(b"\0")
    report = validated(engine, reference=None)
    assert executed(report) == ["checkpoint", "cpu"] and report.passed
    assert "exported" in report.not_executed


def test_scoring_engine_passes(export: Path, tmp_path: Path) -> None:
    engine = build_engine(
        BuildConfig(model=export, arch="cpu", output=tmp_path / "cpu", cache=False, max_input_len=64)
    )
    assert validated(engine).passed


@pytest.fixture(scope="module")
def typed(export: Path) -> Path:
    """A build that stopped in front of the engine."""
    try:
        return build_engine(BuildConfig(model=export, arch="hopper", precision="bf16"))
    except UnavailableError:
        return export / "hopper-bf16"


def test_typed_graph_is_compared_and_the_engine_is_named_as_not_executed(typed: Path) -> None:
    report = validated(typed)
    assert executed(report)[:3] == ["checkpoint", "exported", "typed"]
    comparison = next(
        item for item in report.comparisons if (item.reference, item.tested) == ("exported", "typed")
    )
    errors = [error.relative_rms for error in comparison.figures.layers.values()]
    assert len(errors) == 2 and all(1e-4 < error < 3e-2 for error in errors), "of BF16's size"
    if "engine" in report.not_executed:
        text = page_text(typed)
        assert "Not executed" in text and report.not_executed["engine"] in text
        assert summary_of(typed).not_executed["engine"]


def test_layer_values_of_a_simulation_are_the_rounded_ones(typed: Path) -> None:
    values = layer_values(typed / "simulated.onnx", 2)
    assert list(values) == ["model.layers.0.mlp_residual", "model.layers.1.mlp_residual"]
    assert not any(value.endswith("/exact") for value in values.values())


def broken_copy(export: Path, directory: Path, scale: float) -> Path:
    """A CPU engine of weights that are not the checkpoint's."""
    engine = build_engine(BuildConfig(model=export, arch="cpu", output=directory))
    path = engine / "weights.safetensors"
    tensors = load_file(path)
    name = max(tensors, key=lambda name: tensors[name].numel())
    tensors[name] = tensors[name] * scale
    header = path.read_bytes()
    save_file(tensors, directory.parent / "scaled.safetensors")
    start = 8 + int.from_bytes(header[:8], "little")
    entry = json.loads(header[8:start])[name]["data_offsets"]
    data = tensors[name].to(torch.float32).numpy().tobytes()
    path.write_bytes(header[: start + entry[0]] + data + header[start + entry[1] :])
    return engine


def test_a_miss_fails_after_the_report_is_written(export: Path, tmp_path: Path) -> None:
    engine = broken_copy(export, tmp_path / "cpu", 1.5)
    with pytest.raises(ValidationError, match="cpu against checkpoint") as caught:
        validated(engine)
    assert caught.value.exit_code == 1 and str(engine / "report.html") in str(caught.value)
    assert "Failed" in page_text(engine)
    assert not summary_of(engine).passed


def test_nan_fails_and_the_report_is_json_all_the_same(export: Path, tmp_path: Path) -> None:
    engine = broken_copy(export, tmp_path / "cpu", float("nan"))
    with pytest.raises(ValidationError, match="not finite numbers"):
        validated(engine)
    written = json.loads((engine / "validation.json").read_text(), parse_constant=pytest.fail)
    assert written["comparisons"][-1]["broken_tokens"] > 0


def test_without_the_checkpoint_the_report_says_so(export: Path, tmp_path: Path) -> None:
    moved = tmp_path / "export"
    shutil.copytree(export, moved)
    engine = build_engine(BuildConfig(model=moved, arch="cpu"))
    manifest = json.loads((engine / "manifest.json").read_text())
    manifest["source"]["checkpoint"] = str(tmp_path / "gone")
    (engine / "manifest.json").write_text(json.dumps(manifest))
    report = validated(engine)
    assert executed(report) == ["exported", "cpu"] and report.passed
    assert "--reference" in report.not_executed["checkpoint"]


def test_a_reference_of_another_model(export: Path, tmp_path: Path) -> None:
    other = write_llama(tmp_path / "other", num_hidden_layers=1, head_dim=64)
    with pytest.raises(ConfigError, match=r"another model(.|\n)*num_layers 1"):
        validated(export, reference=other)


def test_another_checkpoint_of_the_same_shape_fails(export: Path, tmp_path: Path) -> None:
    other = write_llama(tmp_path / "other", seed=9, head_dim=64)
    with pytest.raises(ValidationError):
        validated(export, reference=other)


def test_names_cannot_break_the_page(checkpoint: Path, tmp_path: Path) -> None:
    export = exported(checkpoint, tmp_path / "<script>alert(1)<")
    validated(export)
    assert "<script>" not in (export / "report.html").read_text()
    assert "<script>alert(1)<" in page_text(export)


def test_directories_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(R1TrtError):
        validated(tmp_path)


@pytest.mark.parametrize("options", [{"max_tokens": 1}, {"window": 0}])
def test_options_out_of_range(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="too small"):
        ValidateConfig(engine=tmp_path, **options)


def test_a_model_repository_is_nothing_to_validate(tmp_path: Path) -> None:
    RepositoryManifest(models=(), documents=()).write(tmp_path)
    with pytest.raises(ConfigError, match="a model repository"):
        validated(tmp_path)


def test_a_damaged_graph_is_an_error(typed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "build"
    shutil.copytree(typed, copy)
    (copy / "simulated.onnx").write_bytes(b"not a graph")
    with pytest.raises(R1TrtError, match="readable ONNX graph"):
        validated(copy)


def test_a_tokenizer_of_another_vocabulary(tmp_path: Path) -> None:
    checkpoint = write_llama(tmp_path / "checkpoint", tokenizer=True, vocab_size=200)
    with pytest.raises(ConfigError, match="0 to 199"):
        validated(exported(checkpoint, tmp_path / "export"))


def test_a_checkpoint_in_fp8_is_no_reference_and_its_dequantized_model_is_one(tmp_path: Path) -> None:
    plain = write_llama(tmp_path / "plain", tokenizer=True)
    fp8 = quantize_checkpoint(plain, tmp_path / "fp8")
    export = exported(fp8, tmp_path / "export")
    assert executed(validated(export, reference=plain)) == ["checkpoint", "exported"]
    with pytest.raises(ConfigError, match="in FP8 cannot be the reference"):
        validated(export, reference=fp8)
    with pytest.raises(UnavailableError, match="nothing to compare"):
        validated(export)
