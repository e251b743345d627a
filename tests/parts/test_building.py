"""Parts as they are planned, shown and built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from split_models import SplitModel

from r1trt.artifacts.build import BuildArtifact
from r1trt.artifacts.parts import PartsArtifact
from r1trt.build.pipeline import build_engine, parts_of_build
from r1trt.cli import main
from r1trt.export.io import load_export
from r1trt.graph.load import model_from_onnx_file
from r1trt.parts.costs import LayerCost
from r1trt.parts.plan import parts_of_costs
from r1trt.runtime.load import session_from_engine


def costs(sizes: list[int], seconds: list[float]) -> list[LayerCost]:
    return [
        LayerCost(
            weight_bytes=size, expert_bytes=0, cache_bytes=1, prefill_seconds=1.0, decode_seconds=second
        )
        for size, second in zip(sizes, seconds, strict=True)
    ]


@pytest.mark.parametrize(
    ("sizes", "seconds", "count", "max_bytes", "ends"),
    [
        ([1] * 6, [1] * 6, 3, None, [1, 3, 5]),
        ([4, 1, 1, 1, 1, 4], [1] * 6, 2, None, [2, 5]),
        ([9, 1, 1, 1], [0.1, 1, 1, 1], 2, None, [1, 3]),
        ([1, 1, 1, 1], [9, 1, 1, 1], 2, None, [0, 3]),
        ([3, 3, 3, 3, 3], [1] * 5, None, 6, [0, 2, 4]),
        ([1] * 4, [1] * 4, 4, None, [0, 1, 2, 3]),
    ],
)
def test_the_largest_share_is_smallest(
    sizes: list[int], seconds: list[float], count: int | None, max_bytes: int | None, ends: list[int]
) -> None:
    found = parts_of_costs(costs(sizes, seconds), count=count, max_bytes=max_bytes)
    assert len(found) == len(ends) and found[-1] == ends[-1]
    starts = [0, *(end + 1 for end in found[:-1])]
    largest = [sum(sizes[start : end + 1]) for start, end in zip(starts, found, strict=True)]
    assert max_bytes is None or max(largest) <= max_bytes
    assert max_bytes is not None or found == ends


def test_planned_bytes_are_those_of_the_files(llama: SplitModel, r1_asa: SplitModel) -> None:
    for model in (llama, r1_asa):
        planned = parts_of_build(model.config(3))
        built = PartsArtifact.of(BuildArtifact.read(model.engine(3))).parts()
        for part, build in zip(planned, built, strict=True):
            # The file has a header, too.
            assert 0 <= build.weights.stat().st_size - part.cost.weight_bytes < 20_000


def test_what_is_listed_of_a_part(llama: SplitModel) -> None:
    whole = BuildArtifact.read(llama.engine(2))
    manifest = PartsArtifact.of(whole).manifest
    first, last = manifest.parts
    assert (first.input, first.output, last.input, last.output) == (
        "input_ids",
        "hidden_out",
        "hidden_in",
        "logits",
    )
    caches = {entry.name: entry for part in manifest.parts for entry in part.caches}
    assert sorted(caches) == sorted(
        f"{kind}_cache.{layer}" for layer in range(4) for kind in ("key", "value")
    )
    assert all(entry.capacity == whole.manifest.capacity for entry in caches.values())
    tensors = {name for part in manifest.parts for names in part.tensors.values() for name in names}
    model = load_export(llama.path).model
    assert tensors == {name for name, value in model.graph.initializers.items() if "weight" in name}
    assert "model.embed_tokens.weight" in last.tensors["model.safetensors"], "the head is tied to it"


def test_interface_of_a_part(llama: SplitModel) -> None:
    graph = model_from_onnx_file(llama.engine(4) / "part-01" / "cpu.onnx").graph
    assert [value.name for value in graph.inputs] == [
        *("hidden_in", "seq_len", "past_len"),
        *("key_cache.1", "value_cache.1"),
    ]
    assert [value.name for value in graph.outputs] == ["hidden_out", "key_cache_out.1", "value_cache_out.1"]


def test_a_killed_build_goes_on_with_the_part_that_is_not_there(llama: SplitModel, tmp_path: Path) -> None:
    config = llama.config(3, output=tmp_path / "engine")

    def killed(phase: str, done: int, total: int) -> None:
        if phase == "building part 2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(config, killed)
    work = tmp_path / ".engine.parts"
    assert not (tmp_path / "engine").exists()
    times = {path: path.stat().st_mtime_ns for path in work.glob("part-*/cpu.onnx")}
    assert len(times) == 2
    phases: list[str] = []
    built = build_engine(config, lambda phase, done, total: phases.append(phase))
    assert {"part 0 is built already", "part 1 is built already", "building part 2"} <= set(phases)
    assert {built / path.relative_to(work): time for path, time in times.items()} == {
        path: path.stat().st_mtime_ns for path in built.glob("part-0[01]/cpu.onnx")
    }
    assert not work.exists()
    session_from_engine(built).close()


def test_what_a_build_of_other_options_left_is_not_taken(llama: SplitModel, tmp_path: Path) -> None:
    output = tmp_path / "engine"

    def killed(phase: str, done: int, total: int) -> None:
        if phase == "building part 1":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(llama.config(2, output=output), killed)
    phases: list[str] = []
    build_engine(
        llama.config(2, output=output, max_seq_len=32), lambda phase, done, total: phases.append(phase)
    )
    assert "part 0 is built already" not in phases


def test_the_table_is_shown_and_nothing_built(
    llama: SplitModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["build", str(llama.path), "--arch", "cpu", "--parts", "2", "--dry-run"]
    assert main([*command, "-o", str(tmp_path / "out")]) == 0
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["part", "layers", "weights"] and len(rows) == 2
    assert main([*command, "-o", str(tmp_path / "out"), "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert [part["layers"] for part in parts] == [[0, 1], [2, 3]]
    assert not list(tmp_path.iterdir())


def test_an_option_takes_sizes_with_units(llama: SplitModel, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["build", str(llama.path), "--arch", "cpu", "--dry-run", "--json", "--max-part-bytes"]
    assert main([*command, "0.5MB"]) == 0
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert len(parts) > 1 and all(part["weight_bytes"] <= 500_000 for part in parts)
    assert main([*command, "many"]) == 2


def test_typed_parts_for_ada_are_obeyed(llama: SplitModel) -> None:
    whole = BuildArtifact.read(llama.engine(2, arch="ada", precision="bf16"))
    assert whole.manifest.status == "complete"
    parts = PartsArtifact.of(whole).parts()
    checks = [part.manifest.network_check for part in parts]
    assert all(check["disobeyed"] == 0 and check["obeyed"] > 0 for check in checks)
    assert whole.manifest.network_check["obeyed"] == sum(check["obeyed"] for check in checks)
    assert all((part.path / "engine.sm89.plan").is_file() for part in parts)
