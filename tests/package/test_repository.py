from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from small_engine import PLUGIN_GRAPH, TENSORRT, TENSORRT_RTX, plugin_library, write_engine

import r1trt
from r1trt.artifacts import RepositoryArtifact
from r1trt.artifacts.disk import sha256_of_file
from r1trt.cli import main
from r1trt.errors import BuildError, ConfigError, R1TrtError
from r1trt.package.limits import GenerationLimits
from r1trt.package.model_check import check_model_directory
from r1trt.package.repository import TritonConfig, repository_from_engine
from r1trt.package.serving_code import serving_modules
from r1trt.serving.fields import REQUEST_FIELDS, RESPONSE_FIELDS

R1_ASA_BYTES = Path(__file__).parents[1] / "data" / "r1_asa_bytes"
SCORING = {"cache": False, "capacity": None}
ADA = {**TENSORRT, "arch": "ada", "sms": [89], "engines": [{"file": "engine.sm89.plan", "sm": 89}]}
PLUGIN_OPERATORS = ["R1DynamicMoE", "R1DynamicRoPE", "R1HLAAttention"]


def repository(tmp_path: Path, options: dict[str, Any] | None = None, **changes: Any) -> Path:
    engine = write_engine(tmp_path / "engine", **changes)
    return repository_from_engine(
        TritonConfig(engines=(engine,), output=tmp_path / "repository", **options or {})
    )


def readme(path: Path) -> str:
    return (path / "README.md").read_text()


def test_engine_with_a_cache_becomes_a_generation_model(tmp_path: Path) -> None:
    model = repository(tmp_path) / "small"
    config = check_model_directory(model)
    assert config.backend == "python" and config.model_transaction_policy.decoupled
    assert [tensor.name for tensor in config.input] == [tensor.name for tensor in REQUEST_FIELDS]
    assert [tensor.name for tensor in config.output] == [tensor.name for tensor in RESPONSE_FIELDS]
    assert all(tensor.optional for tensor in config.input)
    engine = model / "1" / "engine"
    assert sorted(path.name for path in engine.iterdir()) == [
        "cpu.onnx",
        "manifest.json",
        "tokenizer.json",
        "weights.safetensors",
    ]
    assert onnxruntime.InferenceSession(engine / "cpu.onnx").get_outputs()[0].name == "logits"


def test_inputs_are_those_of_tritons_openai_front_end() -> None:
    names = {tensor.name: tensor.dtype for tensor in REQUEST_FIELDS}
    expected = {
        "text_input": "STRING", "stream": "BOOL", "max_tokens": "INT32", "stop_words": "STRING",
        "top_p": "FP32", "temperature": "FP32", "seed": "UINT64",
        "frequency_penalty": "FP32", "presence_penalty": "FP32",
        "return_num_input_tokens": "BOOL", "return_num_output_tokens": "BOOL",
        "exclude_input_in_output": "BOOL",
    }  # fmt: skip
    assert expected.items() <= names.items()


def test_limits_are_the_configurations_parameters(tmp_path: Path) -> None:
    limits = GenerationLimits(rows=3, chunk_tokens=8, token_budget=40, max_queue=5)
    config = check_model_directory(repository(tmp_path, {"limits": limits}) / "small")
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    assert parameters == {
        "rows": "3", "chunk_tokens": "8", "token_budget": "40", "max_queue": "5",
        "prefix_reuse": "1", "reuse_answers": "0", "prompt_lookup": "0",
    }  # fmt: skip


def test_a_pinned_prompt_that_fills_a_row_is_refused_and_nothing_written(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "engine")
    shutil.copy(R1_ASA_BYTES / "tokenizer.json", engine)  # a token for each byte
    limits = GenerationLimits(rows=2, pinned_prompt="a" * 5000)
    with pytest.raises(ConfigError, match="leaves no room in the KV cache"):
        repository_from_engine(TritonConfig(engines=(engine,), output=tmp_path / "new", limits=limits))
    assert not (tmp_path / "new").exists()


def test_what_others_put_into_a_repository_is_not_lost(tmp_path: Path) -> None:
    path = repository(tmp_path)
    (path / "mine").mkdir()
    (path / "mine" / "config.pbtxt").write_text("mine")
    config = TritonConfig(engines=(tmp_path / "engine",), output=path, model_name="second")
    with pytest.raises(R1TrtError, match="not written by r1trt"):
        repository_from_engine(config)
    assert (path / "mine" / "config.pbtxt").read_text() == "mine"
    shutil.rmtree(path / "mine")
    shutil.rmtree(path / "small")
    with pytest.raises(R1TrtError, match="A model of the repository is gone"):
        repository_from_engine(config)


# What the server's interpreter provides, and each machine's own half, which is imported when it is needed,
# as are programs with limits in their process.
IMPORTS = """
import sys, types
sys.path.insert(0, sys.argv[1])
sys.modules["triton_python_backend_utils"] = types.ModuleType("triton_python_backend_utils")
import r1trt.frontends.triton.model, r1trt.runtime.onnxruntime_session, r1trt.runtime.tensorrt_session
import r1trt.tokenizer.template_program, r1trt.tokenizer.tokenizer_program, r1trt.openai.__main__
import r1trt.cluster.stage, r1trt.runtime.parts_session
print(*(module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "r1trt"))
"""


def test_generation_model_brings_exactly_the_modules_that_it_imports(tmp_path: Path) -> None:
    """Without r1trt installed, one module less is an import error and one more is dead weight."""
    python = repository(tmp_path) / "small" / "1" / "python"
    command = [sys.executable, "-c", IMPORTS, str(python)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    copied = {path for path in python.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert set(map(Path, result.stdout.split())) == copied
    assert copied == {python / "r1trt" / path for path in serving_modules()}


@pytest.mark.parametrize("folder", ["serving", "frontends", "door", "openai"])
def test_generation_model_brings_whole_folders(folder: str) -> None:
    package = Path(r1trt.__file__).parent
    brought = [path for path in serving_modules() if path.parts[0] == folder]
    assert brought == sorted(path.relative_to(package) for path in (package / folder).rglob("*.py"))


def test_engine_without_a_cache_becomes_a_stateless_model(tmp_path: Path) -> None:
    model = repository(tmp_path, **SCORING) / "small"
    config = check_model_directory(model)
    assert config.platform == "onnxruntime_onnx" and not config.model_transaction_policy.decoupled
    assert (model / "tokenizer" / "tokenizer.json").is_file()
    session = onnxruntime.InferenceSession(model / "1" / "cpu.onnx")
    (logits,) = session.run(["logits"], {"input_ids": np.array([[3]]), "seq_len": np.array([1])})
    np.testing.assert_array_equal(logits[0, 0], 3 * np.arange(1, 9, dtype=np.float32))


def test_tensorrt_engine_without_a_cache_is_tritons_own_kind(tmp_path: Path) -> None:
    model = repository(tmp_path, **TENSORRT, **SCORING) / "small"
    config = check_model_directory(model)
    assert config.platform == "tensorrt_plan" and config.default_model_filename == "engine.sm90.plan"
    assert [path.name for path in (model / "1").iterdir()] == ["engine.sm90.plan"]


@pytest.mark.parametrize("changes", [{}, SCORING], ids=["generation", "scoring"])
def test_builds_for_several_architectures_make_one_model(tmp_path: Path, changes: dict[str, Any]) -> None:
    engines = tuple(
        write_engine(tmp_path / build["arch"], **{**build, **changes}) for build in (ADA, TENSORRT)
    )
    path = repository_from_engine(TritonConfig(engines=engines, output=tmp_path / "repository"))
    config = check_model_directory(path / "small")
    assert "GPUs of SM 89, 90" in readme(path)
    if changes:
        assert dict(config.cc_model_filenames) == {"8.9": "engine.sm89.plan", "9.0": "engine.sm90.plan"}
        return
    engine = path / "small" / "1" / "engine"
    assert [entry["sm"] for entry in json.loads((engine / "manifest.json").read_text())["engines"]] == [
        89,
        90,
    ]
    assert (engine / "engine.sm89.plan").is_file() and (engine / "engine.sm90.plan").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "same processor"),
        ({**ADA, "capacity": 32}, "capacity 32"),
        ({**ADA, "source": {"model_name": "small", "model_hash": "other"}}, "model_hash other"),
        ({**ADA, "versions": {"tensorrt-cu13": "11.5.0.1"}}, "different TensorRT versions"),
        ({**ADA, "engines": []}, "not finished"),
    ],
    ids=["same GPU", "capacity", "model", "TensorRT", "unfinished"],
)
def test_builds_that_do_not_belong_together(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    first = write_engine(tmp_path / "first", **TENSORRT)
    second = write_engine(tmp_path / "second", **{**TENSORRT, **changes})
    with pytest.raises(BuildError, match=message):
        repository_from_engine(TritonConfig(engines=(first, second), output=tmp_path / "repository"))


@pytest.mark.parametrize("version", ["11.4", "11.4.0", "11.4.0.106"])
def test_the_servers_tensorrt_may_be_named_in_parts(tmp_path: Path, version: str) -> None:
    assert "11.4.0.106" in readme(repository(tmp_path, {"trt_version": version}, **TENSORRT))


@pytest.mark.parametrize(
    ("version", "changes", "message"),
    [
        ("11.5", TENSORRT, "loads only in the version that built it.*11.5.*11.4.0.106"),
        ("11.4.0.10", TENSORRT, "loads only in the version that built it"),
        ("11.4", {**TENSORRT, "versions": {}}, "does not say which"),
        ("eleven", TENSORRT, "not a TensorRT version"),
        ("11.4", {}, "for TensorRT engines"),
        ("11.4", TENSORRT_RTX, "for TensorRT engines"),
    ],
)
def test_another_tensorrt_version_is_refused(
    tmp_path: Path, version: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(R1TrtError, match=re.compile(message, re.DOTALL)):
        repository(tmp_path, {"trt_version": version}, **changes)
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize(
    ("changes", "requirement"),
    [
        ({}, "onnxruntime>=1.32"),
        (TENSORRT, "tensorrt-cu13==11.4.0.106"),
        (TENSORRT_RTX, "tensorrt-rtx-cu13==1.7.1.13"),
    ],
)
def test_generation_model_says_which_library_it_imports(
    tmp_path: Path, changes: dict[str, Any], requirement: str
) -> None:
    path = repository(tmp_path, **changes)
    assert requirement in (path / "requirements.txt").read_text().splitlines()
    assert "requirements.txt" in (path / "Dockerfile").read_text()


@pytest.mark.parametrize("cache", [True, False])
def test_plugins_travel_with_the_engine_and_the_readme_has_their_option(tmp_path: Path, cache: bool) -> None:
    library = plugin_library(tmp_path / "built.so", PLUGIN_OPERATORS)
    path = repository(
        tmp_path, {"plugin_library": library}, graph=PLUGIN_GRAPH, **{**TENSORRT, "cache": cache}
    )
    option = "--backend-config=tensorrt,plugins=/models/small/libr1trt_plugins.so"
    assert (option in readme(path)) == (not cache)
    if cache:
        engine = path / "small" / "1" / "engine"
        assert json.loads((engine / "manifest.json").read_text())["plugin_libraries"] == [
            "libr1trt_plugins.so"
        ]
        assert (engine / "libr1trt_plugins.so").read_bytes() == library.read_bytes()
    else:
        assert (path / "small" / "libr1trt_plugins.so").read_bytes() == library.read_bytes()


def test_plugins_of_the_build_are_taken(tmp_path: Path) -> None:
    library = plugin_library(tmp_path / "libr1trt_plugins.so", PLUGIN_OPERATORS)
    engine = write_engine(
        tmp_path / "engine", graph=PLUGIN_GRAPH, plugin_libraries=["libr1trt_plugins.so"], **TENSORRT
    )
    library.rename(engine / library.name)
    config = TritonConfig(engines=(engine,), output=tmp_path / "repository", trust_plugins=True)
    path = repository_from_engine(config)
    assert (path / "small" / "1" / "engine" / "libr1trt_plugins.so").is_file()


def test_an_engine_that_carries_its_plugins_needs_the_option_that_allows_it(tmp_path: Path) -> None:
    changes = {**TENSORRT, **SCORING, "plugins": {"embedded": True}}
    path = repository(tmp_path, {"trust_plugins": True}, graph=PLUGIN_GRAPH, **changes)
    assert not list(path.rglob("*.so"))
    assert "--backend-config=tensorrt,version-compatible=true" in readme(path)


def test_missing_plugins_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R1TRT_CACHE", str(tmp_path / "empty"))
    monkeypatch.delenv("R1TRT_PLUGINS", raising=False)
    with pytest.raises(BuildError, match="no library of them was built") as error:
        repository(tmp_path, graph=PLUGIN_GRAPH, **TENSORRT)
    assert error.value.details["found"] == "R1DynamicRoPE"
    other = plugin_library(tmp_path / "other.so", ["R1DynamicMoE"])
    with pytest.raises(BuildError, match="lacks operators"):
        repository_from_engine(
            TritonConfig(engines=(tmp_path / "engine",), output=tmp_path / "repository", plugin_library=other)
        )


def test_manifest_lists_what_is_there(tmp_path: Path) -> None:
    path = repository(tmp_path)
    manifest = json.loads((path / "manifest.json").read_text())
    (model,) = manifest["models"]
    assert manifest["kind"] == "triton" and model["engine"]["precision"] == "fp32"
    files = [*model["files"], *manifest["documents"]]
    names = {entry["file"] for entry in files}
    assert {"README.md", "small/config.pbtxt", "small/1/engine/weights.safetensors"} <= names
    for entry in files:
        assert sha256_of_file(path / entry["file"]) == entry["sha256"]


def add(tmp_path: Path, name: str, **changes: Any) -> Path:
    """Writes an engine of its own, and its model into the one repository."""
    engine = write_engine(tmp_path / f"engine-{name}-{len(list(tmp_path.iterdir()))}", **changes)
    config = TritonConfig(engines=(engine,), output=tmp_path / "repository", model_name=name)
    return repository_from_engine(config)


def test_a_second_model_joins_the_first(tmp_path: Path) -> None:
    path = add(tmp_path, "one")
    edited = path / "one" / "config.pbtxt"
    edited.write_text(f"{edited.read_text()}# edited\n")
    before = {file: file.read_bytes() for file in (path / "one").rglob("*") if file.is_file()}
    weights = path / "one" / "1" / "engine" / "weights.safetensors"
    place = weights.stat().st_ino
    add(tmp_path, "two", **{**TENSORRT, "cache": False, "capacity": None})
    assert {file: file.read_bytes() for file in (path / "one").rglob("*") if file.is_file()} == before
    assert weights.stat().st_ino == place, "an engine may be larger than the free space"
    manifest = RepositoryArtifact.read(path).manifest
    assert [(model.name, model.kind) for model in manifest.models] == [
        ("one", "generation"),
        ("two", "scoring"),
    ]
    text = readme(path)
    assert "of 2 models" in text and "`one` | generates text" in text and "`two` | gives the logits" in text
    assert "python3 -m r1trt.openai --body-bytes" in text and "--gpus all" in text
    for program in ("client_http.py", "client_grpc.py", "client_scoring.py"):
        assert "--model" in (path / program).read_text()
        ast.parse((path / program).read_text())


def test_a_model_of_the_same_name_is_replaced(tmp_path: Path) -> None:
    for name, rows in (("one", 4), ("two", 4), ("one", 2)):
        path = add(tmp_path, name, max_batch_size=rows)
    models = RepositoryArtifact.read(path).manifest.models
    assert [(model.name, model.engine.max_batch_size) for model in models] == [("one", 2), ("two", 4)]


def test_models_of_two_tensorrt_versions_are_not_for_one_server(tmp_path: Path) -> None:
    path = add(tmp_path, "one", **TENSORRT)
    with pytest.raises(BuildError, match="different TensorRT versions"):
        add(tmp_path, "two", **{**TENSORRT, "versions": {"tensorrt-cu13": "11.5.0.1"}})
    assert not (path / "two").exists()


def test_plugins_of_two_scoring_models_are_one_option(tmp_path: Path) -> None:
    library = plugin_library(tmp_path / "built.so", PLUGIN_OPERATORS)
    for name in ("one", "two"):
        engine = write_engine(tmp_path / name, graph=PLUGIN_GRAPH, **{**TENSORRT, "cache": False})
        path = repository_from_engine(
            TritonConfig(
                engines=(engine,),
                output=tmp_path / "repository",
                model_name=name,
                plugin_library=library,
            )
        )
    option = "plugins='/models/one/libr1trt_plugins.so;/models/two/libr1trt_plugins.so'"
    assert option in readme(path)


def test_a_repository_of_another_version_says_what_to_do(tmp_path: Path) -> None:
    path = add(tmp_path, "one")
    document = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**document, "models": 1}))
    with pytest.raises(R1TrtError, match="choose another directory with -o"):
        add(tmp_path, "two")


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("changes", [{}, TENSORRT], ids=["cpu", "gpu"])
def test_readme_and_programs_are_of_this_model(tmp_path: Path, changes: dict[str, Any], cache: bool) -> None:
    path = repository(tmp_path, {"model_name": "other"}, **{**changes, "cache": cache})
    text = readme(path)
    assert '-v "$PWD":/models:ro' in text and "/v2/models/other/ready" in text
    assert ("--gpus all" in text) == bool(changes)
    assert ("11.4.0.106" if changes else "1.32.0") in text
    if cache:
        assert "python3 -m r1trt.openai --model other --body-bytes 1048576" in text
        assert "PYTHONPATH=/models/other/1/python" in text
    programs = re.findall(r"client_\w+\.\w+", text)
    assert programs
    for name in programs:
        content = (path / name).read_text()
        assert "other" in content and "{" + "{" not in content
        if name.endswith(".py"):
            ast.parse(content)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**TENSORRT_RTX, "cache": False}, "Triton cannot load TensorRT-RTX engines"),
        ({"engines": []}, "This build is not finished"),
        ({"engines": [{"file": "gone.onnx", "sm": None}]}, "gone.onnx"),
        ({"kind": "export"}, "another kind|not a build"),
        ({"source": {"model_name": "a/b"}}, "cannot be the name of a Triton model"),
    ],
)
def test_what_cannot_be_served_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(R1TrtError, match=message):
        repository(tmp_path, **changes)
    assert not (tmp_path / "repository").exists()


def test_more_rows_than_the_engine_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(R1TrtError, match="not built for so many rows"):
        repository(tmp_path, {"limits": GenerationLimits(rows=5)})


def test_refusal_keeps_an_earlier_repository(tmp_path: Path) -> None:
    path = repository(tmp_path)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    unfinished = write_engine(tmp_path / "unfinished", engines=[])
    with pytest.raises(BuildError):
        repository_from_engine(TritonConfig(engines=(unfinished,), output=path))
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_a_directory_of_another_kind_is_not_replaced(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "engine")
    with pytest.raises(R1TrtError, match="another kind"):
        repository_from_engine(TritonConfig(engines=(engine,), output=engine))


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = write_engine(tmp_path / "engine")
    arguments = ["triton", str(engine), "-o", str(tmp_path / "repository"), "--model-name", "other", "--json"]
    assert main([*arguments, "--rows", "2"]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(tmp_path / "repository")}
    config = check_model_directory(tmp_path / "repository" / "other")
    assert config.parameters["rows"].string_value == "2"
