"""Long lists of scales lie beside the YAML; a file that is not the plan's is refused with a line."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from precision.test_plan_file import PLAN, Q
from safetensors.numpy import load_file, save

from r1trt.errors import PlanError
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.plan_file import load_plan, plan_from_yaml, save_plan, yaml_from_plan
from r1trt.precision.scales_file import INLINE_SCALES, short_float

ROWS, KEY = 40, f"{Q}.weight_scale"
SCALES = tuple(short_float(scale) for scale in np.exp(np.random.default_rng(0).uniform(-9, 2, ROWS)))
LONG = replace(PLAN, layers={**PLAN.layers, Q: replace(PLAN.layers[Q], weight_scale=SCALES)})


def saved(directory: Path, plan: PrecisionPlan = LONG) -> tuple[Path, Path]:
    """The plan's file and that of its scales."""
    path = directory / "precision.yaml"
    files = save_plan(plan, path)
    assert files == [path, directory / "precision.scales.safetensors"]
    return path, files[1]


def test_long_lists_lie_in_a_file_and_read_back(tmp_path: Path) -> None:
    path, scales = saved(tmp_path)
    assert load_plan(path) == LONG
    assert f"weight_scale:\n      stored: {ROWS}\n" in path.read_text()
    np.testing.assert_array_equal(load_file(scales)[KEY], np.asarray(SCALES, np.float32))


OTHER = replace(LONG, layers={**LONG.layers, Q: replace(LONG.layers[Q], weight_scale=SCALES[::-1])})


def names(directory: Path) -> set[str]:
    return {item.name for item in directory.iterdir()}


@pytest.mark.parametrize("earlier", [LONG, OTHER, PLAN], ids=["same", "other", "short"])
@pytest.mark.parametrize("written", [0, 1])
def test_a_write_that_is_killed_leaves_the_earlier_plan(
    earlier: PrecisionPlan, written: int, tmp_path: Path
) -> None:
    """A process that dies before the file number `written` is in place; the next one clears up."""
    path = tmp_path / "precision.yaml"
    save_plan(earlier, path)
    (tmp_path / "new").mkdir()
    save_plan(LONG, tmp_path / "new" / "precision.yaml")
    program = """
import os, sys
from pathlib import Path
from r1trt.precision.plan_file import load_plan, save_plan

count, rename = int(sys.argv[3]), Path.replace

def dies(self, target):
    global count
    if count == 0:
        os._exit(9)
    count -= 1
    return rename(self, target)

plan = load_plan(Path(sys.argv[1]))
Path.replace = dies
save_plan(plan, Path(sys.argv[2]))
"""
    arguments = [str(tmp_path / "new" / "precision.yaml"), str(path), str(written)]
    assert subprocess.run([sys.executable, "-c", program, *arguments], check=False).returncode == 9
    assert load_plan(path) == earlier
    shutil.rmtree(tmp_path / "new")
    files = save_plan(LONG, path)
    assert load_plan(path) == LONG
    assert names(tmp_path) == {file.name for file in files} and len(files) == 2


def test_plans_take_turns_in_names(tmp_path: Path) -> None:
    path, first = saved(tmp_path)
    _, second = save_plan(OTHER, path)
    assert second != first and load_plan(path) == OTHER
    assert names(tmp_path) == {path.name, second.name}
    assert save_plan(LONG, path)[1] == first and names(tmp_path) == {path.name, first.name}
    assert save_plan(PLAN, path) == [path] and names(tmp_path) == {path.name}


def test_scales_that_another_plan_names_stay(tmp_path: Path) -> None:
    path, _ = saved(tmp_path)
    edited = tmp_path / "edited.yaml"
    edited.write_text(path.read_text())
    save_plan(OTHER, path)
    assert (load_plan(path), load_plan(edited)) == (OTHER, LONG)


def test_scales_beside_what_cannot_be_read_stay(tmp_path: Path) -> None:
    path, scales = saved(tmp_path)
    (tmp_path / "folder.yaml").mkdir()
    save_plan(OTHER, path)
    assert load_plan(path) == OTHER and scales.exists()


def test_short_lists_stay_in_the_text(tmp_path: Path) -> None:
    path = tmp_path / "precision.yaml"
    assert save_plan(PLAN, path) == [path]
    assert [item.name for item in tmp_path.iterdir()] == ["precision.yaml"]
    short = replace(PLAN.layers[Q], weight_scale=SCALES[:INLINE_SCALES])
    assert save_plan(replace(PLAN, layers={Q: short}), path) == [path]


def test_long_lists_in_the_text_are_still_read(tmp_path: Path) -> None:
    path = tmp_path / "precision.yaml"
    path.write_text(yaml_from_plan(LONG))
    assert load_plan(path) == LONG


def test_both_files_can_be_moved(tmp_path: Path) -> None:
    path, scales = saved(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    for item in (path, scales):
        item.rename(tmp_path / "elsewhere" / item.name)
    assert load_plan(tmp_path / "elsewhere" / path.name) == LONG


def test_text_alone_is_not_enough(tmp_path: Path) -> None:
    path, _ = saved(tmp_path)
    with pytest.raises(PlanError, match="scales lie in a file"):
        plan_from_yaml(path.read_text())


def rewritten(path: Path, scales: Path, content: bytes) -> None:
    """Other scales, and the plan that names their hash."""
    before = hashlib.sha256(scales.read_bytes()).hexdigest()
    scales.write_bytes(content)
    path.write_text(path.read_text().replace(before, hashlib.sha256(content).hexdigest()))


def held(*shape: int, value: float = 0.5, dtype: object = np.float32) -> dict[str, np.ndarray]:
    return {KEY: np.full(shape, value, dtype)}


CONTENTS: dict[str, tuple[bytes, str]] = {
    "another length": (
        save(held(ROWS - 1)),
        f"has {ROWS - 1} scales in the file, expected {ROWS}",
    ),
    "another type": (save(held(ROWS, dtype=np.float64)), "expected a list of FP32 numbers"),
    "integers": (save(held(ROWS, value=1, dtype=np.int64)), "expected a list of FP32 numbers"),
    "BF16": (save(held(ROWS, dtype=ml_dtypes.bfloat16)), "precision.scales.safetensors"),
    "a matrix": (save(held(ROWS, 1)), "expected a list of FP32 numbers"),
    "nothing": (save(held(0)), "expected a list of FP32 numbers"),
    "not a number": (save(held(ROWS, value=np.nan)), "finite and above 0"),
    "infinite": (save(held(ROWS, value=np.inf)), "finite and above 0"),
    "zero": (save(held(ROWS, value=0)), "finite and above 0"),
    "another layer": (save({"model.norm.weight_scale": np.ones(4, np.float32)}), "which no layer asks for"),
    "one too many": (save(held(ROWS) | {"x.down_scale": np.ones(4, np.float32)}), "which no layer asks for"),
    "no safetensors": (b"\x10" + b"\0" * 7 + b"{]{]{]{]{]{]{]{]", "is not a safetensors file"),
    "empty": (b"", "is not a safetensors file"),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_other_contents_are_refused(case: str, tmp_path: Path) -> None:
    content, expected = CONTENTS[case]
    path, scales = saved(tmp_path)
    rewritten(path, scales, content)
    with pytest.raises(PlanError) as caught:
        load_plan(path)
    assert expected in str(caught.value) and "line " in str(caught.value)


def _edited_scales(path: Path, scales: Path) -> None:
    scales.write_bytes(save(held(ROWS)))


def _missing(path: Path, scales: Path) -> None:
    scales.unlink()


def _folder(path: Path, scales: Path) -> None:
    scales.unlink()
    scales.mkdir()


def _replaced(old: str, new: str) -> Callable[[Path, Path], None]:
    def change(path: Path, scales: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


FILE = "file: precision.scales.safetensors"
FAULTS: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "edited": (_edited_scales, "the file has another; copy both again"),
    "missing": (_missing, "is not a file beside the plan"),
    "a folder": (_folder, "is not a file beside the plan"),
    "above": (_replaced(FILE, "file: ../precision.scales.safetensors"), "is not a file beside the plan"),
    "absolute": (_replaced(FILE, "file: /etc/passwd"), "is not a file beside the plan"),
    "itself": (_replaced(FILE, "file: .."), "is not a file beside the plan"),
    "zero byte": (_replaced(FILE, 'file: "a\\0b"'), "scales"),
    "no name": (_replaced(FILE, "file: 3"), "expected the texts file and sha256"),
    "text": (_replaced(FILE, "fiel: x"), "expected the texts file and sha256"),
    "unknown key": (_replaced(FILE, f"{FILE}\n  of: x"), "unknown key 'of'"),
    "a count of text": (_replaced(f"stored: {ROWS}", "stored: many"), "expected 'many'"),
    "another key": (_replaced(f"stored: {ROWS}", f"rows: {ROWS}"), "expected numbers, or 'stored'"),
    "stored input": (_replaced("input_scale: 0.5", "input_scale: {stored: 1}"), "expected one FP32 number"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_files_that_do_not_belong_together_are_refused(case: str, tmp_path: Path) -> None:
    change, expected = FAULTS[case]
    (tmp_path / "plan").mkdir()
    path, scales = saved(tmp_path / "plan")
    change(path, scales)
    with pytest.raises(PlanError) as caught:
        load_plan(path)
    assert expected in str(caught.value) and "line " in str(caught.value)
