"""What steps take, and their refusal on machines that are too small."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_checkpoints import write_llama

from r1trt import machine
from r1trt.artifacts.errors import DiskFullError
from r1trt.build.config import BuildConfig
from r1trt.build.pipeline import build_engine
from r1trt.errors import UnavailableError
from r1trt.estimate.estimate import estimate_of
from r1trt.estimate.placement import Use
from r1trt.estimate.planned import planned_model
from r1trt.estimate.refusal import obstacles, require_room
from r1trt.estimate.source import sized_model
from r1trt.estimate.steps import Step, build_step, builder_memory, engine_bytes, export_step
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.machine import Memory, memory_of_machine

GB = 10**9
HUGE = 1 << 60


@pytest.mark.parametrize(
    ("weights", "memory", "engine"),
    [(2.817, 8.6, 2.829), (1.507, 4.9, 1.527), (0.269, 1.30, 0.283)],
)
def test_the_builder_takes_what_was_measured(weights: float, memory: float, engine: float) -> None:
    assert builder_memory(int(weights * GB)) == pytest.approx(memory * GB, rel=0.05)
    assert engine_bytes(int(weights * GB)) == pytest.approx(engine * GB, rel=0.02)


def test_an_export_takes_little_of_anything() -> None:
    model = sized_model("r1-70b")
    assert export_step(model).memory < GB / 5
    assert export_step(model).disk < GB / 20
    assert export_step(model, copy=True).disk > 2 * 70 * GB


def test_a_build_writes_its_weights_and_an_engine_for_each_gpu() -> None:
    model = sized_model("r1-distill-qwen-7b")
    fp8 = planned_model(model, "ada", "fp8", 4096)
    two, none = (build_step(model, fp8, "tensorrt-rtx", engines) for engines in (2, 0))
    assert two.disk - none.disk == 2 * engine_bytes(fp8.bytes)
    assert none.memory > build_step(model, fp8, "tensorrt-rtx", 0, calibrated=True).memory
    assert two.least_memory < two.memory


def test_times_grow_with_the_work() -> None:
    small, large = (sized_model(name) for name in ("r1-distill-qwen-1.5b", "r1-671b"))
    assert export_step(small).seconds < 2 < 10 < export_step(large).seconds < 15
    assert export_step(small, copy=True).seconds > export_step(small).seconds + 5
    bf16, fp8 = (planned_model(small, "ada", precision, 4096) for precision in ("bf16", "fp8"))
    one, two = (build_step(small, bf16, "tensorrt-rtx", engines).seconds for engines in (1, 2))
    assert one < two < 2 * one
    assert build_step(small, fp8, "tensorrt-rtx", 1).seconds > one  # it is calibrated
    assert build_step(small, fp8, "tensorrt-rtx", 1, calibrated=True).seconds < one


def test_what_is_missing_is_said_with_figures() -> None:
    step = Step(name="build", memory=3 * GB, least_memory=2 * GB, disk=GB, seconds=1)
    assert list(obstacles(step, Memory(total=GB, available=0), HUGE)) == [
        "memory: 1.0 GB is less than 2.0 GB"
    ]
    assert list(obstacles(step, Memory(total=HUGE, available=0), 0)) == ["disk: 0 B is less than 1.0 GB"]
    assert not list(obstacles(step, Memory(total=2 * GB, available=0), GB))


def test_too_little_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="too little memory") as error:
        require_room(Step(name="build", memory=HUGE, least_memory=HUGE, disk=0, seconds=1), tmp_path)
    assert "GB" in error.value.details["found"] and "at least" in error.value.details["expected"]
    with pytest.raises(DiskFullError, match="not enough room") as full:
        require_room(
            Step(name="build", memory=1, least_memory=1, disk=HUGE, seconds=1), tmp_path / "not" / "there"
        )
    assert f"{HUGE} bytes for build" in full.value.details["expected"]
    require_room(Step(name="build", memory=HUGE, least_memory=1, disk=1, seconds=1), tmp_path)


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = memory_of_machine()
    assert 0 < whole.available <= whole.total
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "CONTAINER_LIMITS", (limit, tmp_path / "absent"))
    limit.write_text("1000000\n")
    assert memory_of_machine() == Memory(total=1000000, available=1000000)
    limit.write_text("max\n")
    assert memory_of_machine().total >= whole.total


def test_a_build_is_refused_before_it_reads_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = export_checkpoint(
        ExportConfig(checkpoint=write_llama(tmp_path / "model"), output=tmp_path / "export", max_seq_len=64)
    )
    limit = tmp_path / "memory.max"
    limit.write_text("1000000\n")
    monkeypatch.setattr(machine, "CONTAINER_LIMITS", (limit,))
    phases: list[str] = []
    with pytest.raises(UnavailableError, match="too little memory") as error:
        build_engine(BuildConfig(model=export, arch="cpu"), lambda phase, done, total: phases.append(phase))
    assert error.value.details["where"] == "build --arch cpu --fp32"
    assert not phases and not (export / "cpu-fp32").exists()


def test_an_estimate_is_one_whole(tmp_path: Path) -> None:
    found = estimate_of(sized_model("r1-70b"), Use(batch=2, max_seq_len=4096, max_input_len=512), tmp_path)
    steps = {item.step.name: item for item in found.steps}
    assert "export" in steps and "build --arch ampere --fp8" not in steps
    assert {"build --arch ada --fp8", "build --arch ampere --bf16", "build --arch cpu --fp32"} <= set(steps)
    assert set(found.weight_bytes) == set(found.kv_cache) == {"fp32", "bf16", "int8", "fp8", "int4"}
    assert found.weight_bytes["fp8"]["fp8_e4m3"] == 68451041280
    devices = {(item.device, item.precision) for item in found.placements}
    assert {("a100", "bf16"), ("a100", "int8")} <= devices and ("a100", "fp8") not in devices
    assert ("h100", "fp8") in devices and ("cpu", "fp32") in devices
    assert found.to_json()["use"] == {"batch": 2, "max_seq_len": 4096, "max_input_len": 512}
