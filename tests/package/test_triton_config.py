from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from r1trt.errors import ExportError
from r1trt.package.model_check import check_model_directory
from r1trt.package.triton_config import (
    EngineInterface,
    TensorInterface,
    model_config_from_interface,
    model_config_from_text,
    model_config_text,
    write_warmup_data,
)


def tensor(name: str, dtype: str, *dims: int) -> TensorInterface:
    return TensorInterface(name=name, dtype=dtype, dims=dims)


INTERFACE = EngineInterface(
    model_name="tiny",
    platform="onnxruntime_onnx",
    files={"": "cpu.onnx"},
    inputs=[tensor("input_ids", "INT64", -1), tensor("seq_len", "INT64")],
    outputs=[tensor("logits", "FLOAT", -1, 100)],
    max_batch_size=4,
)


def model_directory(tmp_path: Path, text: str) -> Path:
    directory = tmp_path / "tiny"
    (directory / "1").mkdir(parents=True)
    (directory / "1" / "cpu.onnx").write_bytes(b"graph")
    (directory / "config.pbtxt").write_text(text)
    return directory


def test_text_parses_with_tritons_schema_and_says_what_the_engine_is(tmp_path: Path) -> None:
    text = model_config_text(model_config_from_interface(INTERFACE))
    config = check_model_directory(model_directory(tmp_path, text))
    assert config.max_batch_size == 4 and config.default_model_filename == "cpu.onnx"
    assert [(t.name, list(t.dims)) for t in config.input] == [("input_ids", [-1]), ("seq_len", [1])]
    assert config.input[1].HasField("reshape") and not config.input[1].reshape.shape
    assert [(t.name, list(t.dims)) for t in config.output] == [("logits", [-1, 100])]
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"


def test_one_tensorrt_engine_is_the_default_and_runs_where_the_server_has_a_gpu() -> None:
    one = replace(INTERFACE, platform="tensorrt_plan", files={"9.0": "engine.sm90.plan"})
    config = model_config_from_interface(one)
    assert config.default_model_filename == "engine.sm90.plan" and not config.cc_model_filenames
    assert config.instance_group[0].kind == config.instance_group[0].KIND_AUTO


def test_several_tensorrt_engines_are_named_by_compute_capability() -> None:
    files = {"8.9": "engine.sm89.plan", "9.0": "engine.sm90.plan"}
    config = model_config_from_interface(replace(INTERFACE, platform="tensorrt_plan", files=files))
    assert dict(config.cc_model_filenames) == files and not config.default_model_filename


def test_warm_up_reads_a_prompt_of_the_length_that_it_says(tmp_path: Path) -> None:
    config = model_config_from_interface(INTERFACE)
    write_warmup_data(tmp_path / "warmup")
    inputs = config.model_warmup[0].inputs
    assert list(inputs["input_ids"].dims) == [1] and inputs["input_ids"].zero_data
    assert list(inputs["seq_len"].dims) == [1]
    assert (
        int.from_bytes((tmp_path / "warmup" / inputs["seq_len"].input_data_file).read_bytes(), "little") == 1
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name: "tiny" bakend: "onnxruntime"', 'no field named "bakend"'),
        ('name: "tiny" max_batch_size: "four"', "max_batch_size|integer"),
        ("name: tiny {", "tiny"),
    ],
)
def test_a_wrong_field_is_refused(text: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        model_config_from_text(text, where=Path("config.pbtxt"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.ClearField("platform"), "neither platform nor backend"),
        (lambda config: setattr(config, "name", "other"), "'other' is not the directory's"),
        (lambda config: setattr(config, "default_model_filename", "gone.onnx"), "1/gone.onnx is missing"),
        (lambda config: config.output[0].dims.append(0), r"logits: dims \[-1, 100, 0\]"),
        (lambda config: config.output[0].ClearField("data_type"), "logits: no data_type"),
        (lambda config: setattr(config, "backend", "python"), "1/model.py is missing"),
        (lambda config: config.input.append(config.input[0]), "input_ids: declared twice"),
    ],
)
def test_what_the_server_would_refuse_is_found_before(tmp_path: Path, change, message: str) -> None:
    config = model_config_from_interface(INTERFACE)
    change(config)
    with pytest.raises(ExportError, match=message):
        check_model_directory(model_directory(tmp_path, model_config_text(config)))


def test_no_version_directory(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    text = model_config_text(model_config_from_interface(INTERFACE))
    (tmp_path / "tiny" / "config.pbtxt").write_text(text)
    with pytest.raises(ExportError, match="no version directory"):
        check_model_directory(tmp_path / "tiny")


def test_fp8_has_no_triton_type() -> None:
    odd = replace(INTERFACE, outputs=[tensor("logits", "FLOAT8E4M3FN", -1)])
    with pytest.raises(ExportError, match="FLOAT8E4M3FN"):
        model_config_from_interface(odd)
