"""What can be shown of TensorRT sessions without a GPU."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from small_engine import manifest, repository_manifest, write_engine

from r1trt.artifacts.errors import ArtifactError
from r1trt.artifacts.manifest import write_manifest
from r1trt.errors import UnavailableError
from r1trt.runtime.load import session_from_engine
from r1trt.runtime.session import SessionError

NO_GPU = {
    "backend": "tensorrt-rtx",
    "arch": "ada",
    "sms": [1],
    "engines": [{"file": "engine.sm1.plan", "sm": 1}],
}


def test_without_the_engines_gpu_the_message_says_how_to_go_on(tmp_path: Path) -> None:
    # No GPU is an SM1, so this holds with a driver too.
    write_manifest(tmp_path, manifest(**NO_GPU))
    with pytest.raises(
        UnavailableError, match=r"(cuda-python|an NVIDIA GPU|this machine's GPU)(.|\n)*fix:"
    ) as caught:
        session_from_engine(tmp_path)
    assert caught.value.exit_code == 3


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    files = [{"file": "weights.safetensors", "sha256": "0" * 64, "bytes": 32}]
    engine = write_engine(tmp_path / "engine", files=files, engines=[{**files[0], "sm": None}])
    size = (engine / "weights.safetensors").stat().st_size
    (engine / "weights.safetensors").write_bytes(b"x" * 10)
    with pytest.raises(ArtifactError, match="The build is incomplete") as caught:
        session_from_engine(engine)
    assert size != 10 and "weights.safetensors: 10 bytes: damaged, 32 bytes expected" in str(caught.value)


def test_a_directory_of_another_kind(tmp_path: Path) -> None:
    write_manifest(tmp_path, repository_manifest())
    with pytest.raises(SessionError, match="nothing that can be run"):
        session_from_engine(tmp_path)


CALLS = {
    "Runtime": ["deserialize_cuda_engine", "get_plugin_registry"],
    "ICudaEngine": [
        "create_execution_context",
        "get_tensor_dtype",
        "get_tensor_mode",
        "get_tensor_name",
        "get_tensor_profile_shape",
        "get_tensor_shape",
        "num_io_tensors",
        "num_optimization_profiles",
    ],
    "IExecutionContext": [
        "execute_async_v3",
        "set_input_shape",
        "set_optimization_profile_async",
        "set_tensor_address",
    ],
    "TensorIOMode": ["INPUT"],
}


@pytest.mark.parametrize("name", CALLS)
def test_the_bindings_have_the_calls_that_the_session_makes(name: str) -> None:
    trt = importlib.import_module("tensorrt_rtx")
    missing = [call for call in CALLS[name] if not hasattr(getattr(trt, name), call)]
    assert not missing, f"tensorrt_rtx.{name} lacks {missing}"
    assert trt.float32.itemsize == 4 and trt.bfloat16.itemsize == 2
