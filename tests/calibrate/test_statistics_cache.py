"""Statistics that are kept: gone on with, shared, and measured again where they are damaged."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from calibrate.calibrations import calibrated, config_for, exported
from tiny_checkpoints import write_r1_asa

from r1trt.cache import CACHE_VARIABLE
from r1trt.calibrate.calibrate import CalibrationConfig
from r1trt.calibrate.statistics_cache import Entry, StatisticsFile
from r1trt.export.io import ExportedModel
from r1trt.precision.plan import PrecisionPlan

Call = tuple[str, int, int]
RANGES = "measuring ranges"


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def asa(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportedModel]:
    directory = tmp_path_factory.mktemp("asa")
    checkpoint = write_r1_asa(directory / "checkpoint", tokenizer=True)
    return checkpoint, exported(checkpoint, directory / "export")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "calibration"


def kept(asa: tuple[Path, ExportedModel], directory: Path, **options: Any) -> CalibrationConfig:
    return config_for(asa[0], directory, weights=asa[1].weight_marks(), **options)


def run(model: ExportedModel, config: CalibrationConfig) -> tuple[PrecisionPlan, list[Call]]:
    calls: list[Call] = []
    plan = calibrated(model, config, progress=lambda *call: calls.append(call))
    return plan, [call for call in calls if call[0] == RANGES]


@pytest.mark.parametrize("method", ["amax", "mse", "percentile"])
def test_nothing_is_measured_twice(
    method: str, asa: tuple[Path, ExportedModel], cache: Path, tmp_path: Path
) -> None:
    config = kept(asa, tmp_path, method=method)
    first, calls = run(asa[1], config)
    again, calls_again = run(asa[1], config)
    without, _ = run(asa[1], replace(config, weights=None))
    assert first == again == without
    assert calls == [(RANGES, done, 5) for done in range(6)] and calls_again == [(RANGES, 5, 5)]
    assert len(list(cache.iterdir())) == (1 if method == "amax" else 2)


def test_a_calibration_that_was_cut_off_goes_on(
    asa: tuple[Path, ExportedModel], cache: Path, tmp_path: Path
) -> None:
    config = kept(asa, tmp_path)

    def stop(phase: str, done: int, total: int) -> None:
        if done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        calibrated(asa[1], config, progress=stop)
    plan, calls = run(asa[1], config)
    assert calls == [(RANGES, done, 5) for done in (3, 4, 5)]
    assert plan == calibrated(asa[1], replace(config, weights=None))


def test_layers_that_are_asked_for_later_are_measured_alone(
    asa: tuple[Path, ExportedModel], cache: Path, tmp_path: Path
) -> None:
    """As a search asks for more layers than a build."""
    from r1trt.calibrate.calibrate import calibrated_plan

    config, model = kept(asa, tmp_path), asa[1]
    full = calibrated(model, replace(config, weights=None))
    some = {key: replace(layer, input_scale=None) for key, layer in full.layers.items() if "layers.0" in key}
    some = {key: layer for key, layer in some.items() if layer.quantizes_input}
    part = replace(full, layers={**full.layers, **some})
    assert calibrated_plan(part, model.model, model.weight_base, config).layers == full.layers
    plan, calls = run(model, config)
    assert plan.layers == full.layers and calls[0] == (RANGES, 0, 5)
    assert len(list(cache.iterdir())) == 1
    assert run(model, config)[1] == [(RANGES, 5, 5)]


@pytest.mark.parametrize(
    "other",
    [{"tokens": 256}, {"chunk": 32}, {"weights": ("another file",)}],
    ids=lambda other: next(iter(other)),
)
def test_what_the_numbers_follow_from_tells_files_apart(
    other: dict[str, Any], asa: tuple[Path, ExportedModel], cache: Path, tmp_path: Path
) -> None:
    config = kept(asa, tmp_path)
    calibrated(asa[1], config)
    _, calls = run(asa[1], replace(config, **other))
    assert calls[0][1] == 0 and len(list(cache.iterdir())) == 2


def test_another_onnx_runtime_measures_anew(
    asa: tuple[Path, ExportedModel], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = kept(asa, tmp_path)
    calibrated(asa[1], config)
    monkeypatch.setattr(onnxruntime, "__version__", "1.99.0")
    _, calls = run(asa[1], config)
    assert calls[0][1] == 0 and len(list(cache.iterdir())) == 2


def test_an_edited_graph_is_another_model(
    asa: tuple[Path, ExportedModel], cache: Path, tmp_path: Path
) -> None:
    config, model = kept(asa, tmp_path), asa[1]
    calibrated(model, config)
    edited = model.model.clone()
    [node] = [node for node in edited.graph if node.name == "model.layers.1.mlp.moe"]
    import onnx_ir as ir

    node.attributes["top_k"] = ir.AttrInt64("top_k", 4)
    assert run(replace(model, model=edited), config)[1][0] == (RANGES, 0, 5)


def _flip(content: bytes) -> bytes:
    middle = len(content) - 9
    return content[:middle] + bytes([content[middle] ^ 0x40]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[:-5], _flip, lambda content: b"", lambda content: b"\xff" * len(content)],
    ids=["cut off", "one bit", "empty", "noise"],
)
def test_a_damaged_file_is_measured_again(
    damage: Callable[[bytes], bytes], asa: tuple[Path, ExportedModel], cache: Path, tmp_path: Path
) -> None:
    config = kept(asa, tmp_path)
    whole, _ = run(asa[1], config)
    [file] = cache.rglob("*.safetensors")
    written = file.read_bytes()
    file.write_bytes(damage(written))
    again, calls = run(asa[1], config)
    assert again == whole and calls[0] == (RANGES, 0, 5)
    assert file.read_bytes() == written


def test_numbers_that_are_not_finite_are_not_believed(tmp_path: Path) -> None:
    file = StatisticsFile(tmp_path / "folder" / "file")
    file.write({"probe": Entry(totals_N=np.array([np.nan]), scales_S=np.zeros(0), done=1)})
    assert file.read() == {}


def test_a_cache_that_cannot_be_written_is_done_without(
    asa: tuple[Path, ExportedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    assert not calibrated(asa[1], kept(asa, tmp_path)).missing_scales


def test_another_process_finds_them(asa: tuple[Path, ExportedModel], cache: Path, tmp_path: Path) -> None:
    """Names of files do not depend on the process, whatever its strings' hashes are."""
    config = kept(asa, tmp_path)
    calibrated(asa[1], config)
    program = (
        "import sys; from pathlib import Path; from calibrate.calibrations import calibrated, config_for;"
        "from r1trt.export.io import load_export; model = load_export(Path(sys.argv[1]));"
        "config = config_for(Path(sys.argv[2]), Path(sys.argv[3]), weights=model.weight_marks());"
        "calibrated(model, config, progress=lambda phase, *call: print(phase, *call))"
    )
    roots = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    done = subprocess.run(
        [sys.executable, "-c", program, str(asa[1].path), str(asa[0]), str(tmp_path)],
        env=os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(roots)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith(RANGES)] == [f"{RANGES} 5 5"]
