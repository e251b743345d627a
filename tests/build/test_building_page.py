"""The steps of a build as docs/building.md shows them; they make what the command makes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from r1trt.arch import BuildPrecision
from r1trt.artifacts import BuildArtifact
from r1trt.build.config import BuildConfig
from r1trt.build.pipeline import build_engine
from r1trt.precision.plan_file import load_plan

PAGE = Path(__file__).parents[2] / "docs" / "building.md"


def test_the_example_builds_what_it_says(
    llama_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(llama_export, tmp_path / "engines" / "SmolLM2")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    assert "'disobeyed': 0" in printed and "engine.sm89.plan" in printed
    build = BuildArtifact.read(tmp_path / "engines" / "SmolLM2" / "wide-head")
    assert build.manifest.status == "complete" and build.manifest.max_batch_size == 1
    assert load_plan(build.precision_plan).layers["lm_head"].weight == "fp32"
    plan, other = build.precision_plan, tmp_path / "command"
    build_engine(BuildConfig(arch="ada", max_batch_size=1, plan=plan, model=llama_export, output=other))
    for path in (build.typed_graph, build.weights, build.simulated_graph, build.engine(89)):
        assert path.read_bytes() == (other / path.name).read_bytes(), path.name


@pytest.mark.parametrize(("arch", "precision"), [("ada", "bf16"), ("cpu", "fp32")])
def test_every_file_of_a_build_is_in_the_table(
    llama_export: Path, tmp_path: Path, arch: str, precision: BuildPrecision
) -> None:
    config = BuildConfig(model=llama_export, arch=arch, precision=precision, output=tmp_path / "build")
    build = BuildArtifact.read(build_engine(config))
    made = {path.name for path in build.path.iterdir()} - {path.name for path in build.companions}
    table = PAGE.read_text()
    assert [name for name in made if f"`{name.replace('sm89', 'smNN')}`" not in table] == []
