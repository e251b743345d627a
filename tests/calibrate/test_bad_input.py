"""Texts and models that no scale follows from."""

from __future__ import annotations

from pathlib import Path

import pytest
from calibrate.calibrations import TEXT, calibrated, config_for, edit_weight, exported
from tiny_checkpoints import write_llama, write_r1_asa

from r1trt.errors import ConfigError, PlanError, R1TrtError
from r1trt.export.io import ExportedModel


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportedModel]:
    directory = tmp_path_factory.mktemp("llama")
    checkpoint = write_llama(directory / "checkpoint", tokenizer=True)
    return checkpoint, exported(checkpoint, directory / "export")


def refused(llama: tuple[Path, ExportedModel], text: Path, **options: object) -> R1TrtError:
    with pytest.raises(R1TrtError) as caught:
        calibrated(llama[1], config_for(llama[0], text.parent, text=text, **options))
    return caught.value


def test_a_text_that_is_shorter_than_a_window(llama: tuple[Path, ExportedModel], tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text(TEXT[:400])
    error = refused(llama, text, chunk=512, tokens=8192)
    assert "too short" in error.message and error.details["where"] == str(text)
    assert error.details["expected"] == "at least 512 tokens: one window"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", "", "is empty"),
        ("blank.txt", " \n\n", "is empty"),
        ("empty.jsonl", "\n", "is empty"),
        ("nothing.jsonl", '{"text": ""}\n{"text": ""}\n', "too short"),
    ],
)
def test_an_empty_text(
    name: str, content: str, message: str, llama: tuple[Path, ExportedModel], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    error = refused(llama, tmp_path / name)
    assert message in error.message and str(tmp_path / name) in str(error)


def test_another_models_tokenizer(tmp_path: Path) -> None:
    checkpoint = write_llama(tmp_path / "checkpoint", tokenizer=True, vocab_size=200)
    model = exported(checkpoint, tmp_path / "export")
    with pytest.raises(ConfigError, match="0 to 199") as caught:
        calibrated(model, config_for(checkpoint, tmp_path))
    assert str(tmp_path / "text.txt") in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_activations_that_are_not_finite(value: float, tmp_path: Path) -> None:
    """One channel in the middle: what reduces them must not pass over it."""
    checkpoint = write_llama(tmp_path / "checkpoint", tokenizer=True)
    edit_weight(checkpoint, "model.layers.1.mlp.up_proj.weight", lambda weight: weight[5].fill_(value))
    model = exported(checkpoint, tmp_path / "export")
    with pytest.raises(PlanError, match="not finite") as caught:
        calibrated(model, config_for(checkpoint, tmp_path))
    assert caught.value.details["where"] == "model.layers.1.mlp.down_proj"


def test_an_expert_whose_activations_are_not_finite(tmp_path: Path) -> None:
    checkpoint = write_r1_asa(tmp_path / "checkpoint", tokenizer=True)
    name = "model.layers.1.mlp.experts.3.up_proj.weight"
    edit_weight(checkpoint, name, lambda weight: weight[5].fill_(float("nan")))
    model = exported(checkpoint, tmp_path / "export")
    with pytest.raises(PlanError, match="not finite") as caught:
        calibrated(model, config_for(checkpoint, tmp_path))
    assert caught.value.details["where"] == "model.layers.1.mlp.moe"


def test_activations_that_are_all_zero(tmp_path: Path) -> None:
    checkpoint = write_llama(tmp_path / "checkpoint", tokenizer=True)
    edit_weight(checkpoint, "model.layers.1.input_layernorm.weight", lambda weight: weight.zero_())
    model = exported(checkpoint, tmp_path / "export")
    with pytest.raises(PlanError, match="zero on the whole text") as caught:
        calibrated(model, config_for(checkpoint, tmp_path))
    found = caught.value.details["found"]
    assert "input_scale of model.layers.1.self_attn.q_proj, " in found
    assert "model.layers.1.self_attn.o_proj" in found
