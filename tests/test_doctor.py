from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from r1trt.arch import ARCHITECTURES
from r1trt.cli import main
from r1trt.cuda_driver import CudaDriver, cuda_driver, driver_problem
from r1trt.doctor import PROBES, architecture_status, probe_library

WORKS, ABSENT = {"works": True}, {"works": False, "error": "absent"}


def libraries(*working: str) -> dict[str, Any]:
    return {name: WORKS if name in working else ABSENT for name in PROBES}


def status(arch: str, *working: str, sms: frozenset[int] = frozenset()) -> dict[str, Any]:
    return architecture_status(ARCHITECTURES[arch], libraries(*working), set(sms))


def test_doctor_prints_every_architecture(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert all(arch in text for arch in ARCHITECTURES)


def test_doctor_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    diagnosis = json.loads(capsys.readouterr().out)
    assert {arch["arch"] for arch in diagnosis["architectures"]} == set(ARCHITECTURES)
    assert diagnosis["libraries"]["onnxruntime"]["works"]
    assert 0 < diagnosis["memory"]["available"] <= diagnosis["memory"]["total"]


def test_bare_machine_builds_nothing_and_says_how_to() -> None:
    assert status("ada")["builds"] == {}
    assert status("ada")["missing"] == [
        "pip install 'r1trt[cpu]' (TensorRT-RTX)",
        "a machine with the GPU (SM89)",
        "pip install 'r1trt[gpu]' (TensorRT 11)",
    ]
    assert status("cpu")["missing"] == ["pip install 'r1trt[cpu]' (ONNX Runtime)"]


def test_tensorrt_rtx_builds_for_gpus_that_are_elsewhere() -> None:
    assert status("ampere", "tensorrt_rtx")["builds"] == {"tensorrt-rtx": [80, 86]}
    assert status("hopper", "tensorrt_rtx")["builds"] == {}
    assert not status("ada", "tensorrt_rtx")["runs"]


def test_tensorrt_builds_for_the_gpu_in_the_machine() -> None:
    on_hopper = status("hopper", "tensorrt", sms=frozenset({90}))
    assert on_hopper["builds"] == {"tensorrt": [90]} and on_hopper["runs"] and not on_hopper["missing"]
    assert status("ada", "tensorrt", sms=frozenset({90}))["builds"] == {}


def test_a_broken_library_is_reported_not_raised() -> None:
    found = probe_library("onnxruntime")
    assert found["works"] and "CPUExecutionProvider" in found["providers"]


@pytest.mark.parametrize(
    ("runtime", "version", "says"),
    [
        ("13.0.88", "12.4", "driver for CUDA 13 (580 or newer), or build it with nvcc 12"),
        ("12.8.61", "11.8", "driver for CUDA 12 (525 or newer)"),
        ("14.1.2", "13.1", "driver for CUDA 14, or build"),
        ("13.0.88", "13.0", None),
        ("12.8.61", "13.0", None),
        ("12.9.0", "12.4", None),
        ("13.0.88", None, None),
        ("unknown", "13.0", None),
    ],
)
def test_a_runtime_that_is_newer_than_the_driver_is_named(
    runtime: str, version: str | None, says: str | None
) -> None:
    problem = driver_problem(runtime, CudaDriver(version=version, gpus=()))
    assert (problem is None) == (says is None)
    assert says is None or says in str(problem)


def test_no_gpu_is_an_answer() -> None:
    driver = cuda_driver()
    assert bool(driver.gpus) != bool(driver.error)


def test_doctor_needs_only_the_base_packages() -> None:
    """Without site-packages of the extras, `doctor` still explains what is missing."""
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnxruntime", "tensorrt_rtx", "transformers", "tritonclient"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
from r1trt.cli import main
sys.exit(main(["doctor"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
