"""Experts as inputs of an engine: the numbers of constant ones, from the checkpoint's shards, or an error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from export.agreement import feed, random_prompts
from fp8_checkpoints import quantize_checkpoint
from random_deepseek import write_deepseek as write_random_r1
from safetensors.torch import load_file, save_file
from scripts_under_test import REPOSITORY
from tiny_checkpoints import write_deepseek, write_llama

from r1trt.artifacts.build import BuildArtifact
from r1trt.build import experts
from r1trt.build.config import BuildConfig
from r1trt.build.pipeline import build_engine
from r1trt.errors import CheckpointError, PlanError, UsageError
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.machine import Memory
from r1trt.runtime.graph_session import session_from_simulation
from r1trt.runtime.load import session_from_engine
from r1trt.runtime.session import Session

TOLERANCE = 1e-5  # of the largest logit, where a part's interface keeps operators apart
CALLS = [(20, 7), (1, 15), (16, 1)]
EXPERT = "model.layers.1.mlp.experts.3.down_proj.weight"
CHECKPOINTS: dict[str, Callable[[Path], Path]] = {
    "random R1": lambda path: write_random_r1(path, experts=16)[0],
    "R1-ASA": lambda _: REPOSITORY / "tests" / "data" / "r1_asa_bytes",
    "FP8 with block scales": lambda path: quantize_checkpoint(
        write_deepseek(path / "plain", tokenizer=True), path / "fp8"
    ),
}


def export(checkpoint: Path, directory: Path) -> Path:
    return export_checkpoint(ExportConfig(checkpoint=checkpoint, output=directory / "export", max_seq_len=64))


def build(model: Path, name: str, **options: Any) -> BuildArtifact:
    settings = {"arch": "cpu", "precision": "fp32", "output": model.parent / name}
    return BuildArtifact.read(build_engine(BuildConfig(**{**settings, **options}, model=model)))


def logits(session: Session) -> list[np.ndarray]:
    with closing(session):
        return feed(session, random_prompts((37, 23), session.limits.vocab_size), CALLS)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_logits_are_those_of_constant_experts(name: str, tmp_path: Path) -> None:
    model = export(CHECKPOINTS[name](tmp_path / "checkpoint"), tmp_path)
    constant = build(model, "constant")
    inputs = build(model, "inputs", external_experts=True)
    parts = build(model, "parts", external_experts=True, parts=2)
    expected = logits(session_from_engine(constant.path, threads=1))
    for found, want in zip(logits(session_from_engine(inputs.path, threads=1)), expected, strict=True):
        np.testing.assert_array_equal(found, want)
    for found, want in zip(logits(session_from_engine(parts.path, threads=1)), expected, strict=True):
        assert np.abs(found - want).max() <= TOLERANCE * np.abs(want).max()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> BuildArtifact:
    """A `cpu` engine beside its checkpoint of one shard."""
    directory = tmp_path_factory.mktemp("engine")
    model = export(write_deepseek(directory / "checkpoint", tokenizer=True), directory)
    return build(model, "engine", external_experts=True)


def test_no_expert_is_written(engine: BuildArtifact) -> None:
    listed = engine.manifest.external_experts
    assert listed is not None
    names = {tensor.tensor for stack in listed.stacks for tensor in stack.tensors}
    assert EXPERT in names and all(".mlp.experts." in name for name in names)
    graph = ir.load(engine.cpu_engine).graph
    assert {stack.name for stack in listed.stacks} <= {value.name for value in graph.inputs}
    assert not {stack.name for stack in listed.stacks} & set(graph.initializers)
    profiles = json.loads(engine.profiles.read_text())
    for stack in listed.stacks:
        assert all(tuple(profile["inputs"][stack.name]["opt"]) == stack.shape for profile in profiles)


def remove(shard: Path) -> None:
    shard.unlink()


def reshape(shard: Path) -> None:
    tensors = load_file(shard)
    save_file(tensors | {EXPERT: tensors[EXPERT].T.contiguous()}, shard)


def retype(shard: Path) -> None:
    tensors = load_file(shard)
    save_file(tensors | {EXPERT: tensors[EXPERT].bfloat16()}, shard)


def rename(shard: Path) -> None:
    tensors = load_file(shard)
    save_file({name.replace(EXPERT, "other"): tensor for name, tensor in tensors.items()}, shard)


def change(shard: Path) -> None:
    tensors = load_file(shard)
    save_file(tensors | {EXPERT: tensors[EXPERT] + 1}, shard)


def truncate(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove, ["missing"]),
        (reshape, ["does not hold a tensor", EXPERT, "F32 ["]),
        (retype, ["does not hold a tensor", EXPERT, "BF16"]),
        (rename, ["does not hold a tensor", EXPERT, "no such tensor"]),
        (change, ["changed since the engine was built", "SHA-256"]),
        (truncate, ["truncated"]),
    ],
)
def test_other_shards_are_refused(
    engine: BuildArtifact, tmp_path: Path, damage: Callable[[Path], None], words: list[str]
) -> None:
    """A build whose manifest names a copy of the checkpoint, which is then damaged."""
    checkpoint = Path(shutil.copytree(engine.path.parent / "checkpoint", tmp_path / "checkpoint"))
    moved = Path(shutil.copytree(engine.path, tmp_path / "engine"))
    manifest = json.loads((moved / "manifest.json").read_text())
    manifest["external_experts"]["base_directory"] = str(checkpoint)
    (moved / "manifest.json").write_text(json.dumps(manifest))
    logits(session_from_engine(moved, threads=1))
    shard = checkpoint / "model.safetensors"
    damage(shard)
    with pytest.raises(CheckpointError) as caught:
        session_from_engine(moved)
    assert str(shard) in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_what_cannot_be_an_input_is_refused(tmp_path: Path) -> None:
    wide = write_deepseek(tmp_path / "wide" / "checkpoint", tokenizer=True, moe_intermediate_size=32)
    with pytest.raises(PlanError, match="Experts in blocks of integers"):
        build(export(wide, tmp_path / "wide"), "int8", precision="int8", external_experts=True)
    llama = export(write_llama(tmp_path / "checkpoint"), tmp_path)
    with pytest.raises(UsageError, match="this model has none"):
        build(llama, "llama", external_experts=True)


def test_experts_are_inputs_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    def takes(backend: Any, weights: list[int]) -> bool:
        return experts.takes_external_experts(BuildConfig(), backend, weights, 50)

    monkeypatch.setattr(experts, "memory_of_machine", lambda: Memory(total=300, available=300))
    assert takes("tensorrt", [50, 101]) and not takes("tensorrt", [100, 100])
    assert not takes("onnxruntime", [101])


@pytest.mark.parametrize("precision", ["fp8", pytest.param("bf16", marks=pytest.mark.slow)])
def test_an_engine_for_ada_obeys_its_plan(engine: BuildArtifact, precision: Any, tmp_path: Path) -> None:
    """The products are read from the built engine; the simulation has the same numbers as with constants."""
    model = engine.path.parent / "export"
    inputs = build(model, f"ada-{precision}", arch="ada", precision=precision, external_experts=True)
    report = json.loads(inputs.layers.read_text())
    assert report["summary"]["disobeyed"] == 0
    (layer,) = [layer for layer in report["layers"] if layer["op"] == "R1DynamicMoE"]
    kind = {"fp8": "fp8_e4m3", "bf16": "bf16"}[precision]
    assert sorted(layer["executed"]) == sorted(["fp32 x fp32 -> fp32", f"{kind} x {kind} -> bf16"])
    constant = build(model, f"ada-{precision}-constant", arch="ada", precision=precision)
    for found, want in zip(
        *(logits(session_from_simulation(each)) for each in (inputs, constant)), strict=True
    ):
        np.testing.assert_array_equal(found, want)
