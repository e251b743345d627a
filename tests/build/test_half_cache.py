"""CPU engines with a KV cache in FP16: half the bytes, and nearly the logits of one in FP32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tiny_checkpoints import write_deepseek, write_llama, write_r1_asa

from r1trt.artifacts.build import BuildArtifact
from r1trt.build.config import BuildConfig
from r1trt.build.pipeline import build_engine
from r1trt.build.target import target_from_config
from r1trt.errors import PlanError, UsageError
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.precision.plan_file import load_plan
from r1trt.runtime.load import session_from_engine
from r1trt.runtime.prefill import prefill_outputs
from r1trt.runtime.session import Session

CAPACITY = 64
CHECKPOINTS: dict[str, Callable[[Path], Path]] = {
    "llama": write_llama,
    "llama with narrow heads": lambda path: write_llama(path, head_dim=8),
    "r1-asa": write_r1_asa,
    "deepseek": write_deepseek,
}
# Two layers, each with some ten roundings to FP16 by 2^-11 at most, of the largest logit.
TOLERANCE = 2 * 10 * 2.0**-11


def engines(checkpoint: Path, directory: Path) -> dict[str, Path]:
    """A build with each cache, of one export."""
    export = export_checkpoint(
        ExportConfig(checkpoint=checkpoint, output=directory / "export", max_seq_len=CAPACITY)
    )
    config = BuildConfig(model=export, arch="cpu", precision="fp32", max_batch_size=3)
    return {
        "fp32": build_engine(replace(config, output=directory / "fp32")),
        "fp16": build_engine(replace(config, output=directory / "fp16", kv_cache="fp16")),
    }


def logits_of(session: Session, prompts: list[list[int]], chunk: int) -> list[np.ndarray]:
    """Logits of all tokens of each prompt: read in chunks but for the last two, which are single steps."""
    parts: list[list[np.ndarray]] = [[] for _ in prompts]
    for _, seq_len_B, outputs in prefill_outputs(session, [prompt[:-2] for prompt in prompts], chunk):
        for row, count in enumerate(seq_len_B):
            parts[row].append(outputs["logits"][row, :count].copy())
    one_B = np.ones(len(prompts), np.int64)
    for back in (2, 1):
        ids = np.array([[prompt[-back]] for prompt in prompts])
        past = np.array([len(prompt) - back for prompt in prompts])
        for row, found in enumerate(session.step(ids, one_B, past)):
            parts[row].append(found.copy())
    return [np.concatenate(part) for part in parts]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_calls_in_chunks_and_rows_give_nearly_the_logits_of_fp32(name: str, tmp_path: Path) -> None:
    built = engines(CHECKPOINTS[name](tmp_path / "checkpoint"), tmp_path)
    found = {kind: BuildArtifact.read(path).manifest for kind, path in built.items()}
    assert 2 * found["fp16"].kv_cache_bytes == found["fp32"].kv_cache_bytes > 0
    sessions = {kind: session_from_engine(path) for kind, path in built.items()}
    generator = np.random.default_rng(1)
    prompts = [generator.integers(3, 60, length).tolist() for length in (37, 12, 23)]
    for chunk in (5, 16):
        want, got = (logits_of(sessions[kind], prompts, chunk) for kind in ("fp32", "fp16"))
        for row, (a, b) in enumerate(zip(want, got, strict=True)):
            error = np.abs(a - b).max() / np.abs(a).max()
            # Roundings change a routed expert where two scores nearly tie: these few models have no such.
            assert 0 < error < TOLERANCE, (name, chunk, row, error)


def test_rows_move_and_are_cleared(tmp_path: Path) -> None:
    built = engines(write_llama(tmp_path / "checkpoint"), tmp_path)
    session = session_from_engine(built["fp16"])
    prompt = list(range(5, 20))
    alone = logits_of(session, [prompt], 8)[0]
    for _ in prefill_outputs(session, [[9, 8, 7], [4, 3, 2, 1], prompt[:-1]], 8):
        pass
    session.move(2, 0, len(prompt) - 1)
    session.clear(2)
    one_B = np.ones(1, np.int64)
    logits = session.step(np.array([[prompt[-1]]]), one_B, (len(prompt) - 1) * one_B)
    np.testing.assert_allclose(logits[0, 0], alone[-1], atol=TOLERANCE * np.abs(alone).max())
    caches = session._caches  # type: ignore[attr-defined]  # no public name
    assert all(cache.dtype == np.float16 and not cache[2].any() for cache in caches.values())


def test_the_plan_and_the_graph_say_it(tmp_path: Path) -> None:
    built = BuildArtifact.read(engines(write_llama(tmp_path / "checkpoint"), tmp_path)["fp16"])
    layers = [layer for layer in load_plan(built.precision_plan).layers.values() if layer.cache]
    assert {(layer.op, layer.cache) for layer in layers} == {("R1HLAAttention", "fp16")}
    graph = ir.load(built.cpu_engine).graph
    held = {value.dtype for value in (*graph.inputs, *graph.outputs) if "cache" in (value.name or "")}
    assert held == {ir.DataType.FLOAT16}


@pytest.mark.parametrize("arch", ["ada", "hopper"])
def test_other_architectures_are_refused(arch: str) -> None:
    with pytest.raises(UsageError, match="--kv-cache is for --arch cpu"):
        target_from_config(BuildConfig(arch=arch, kv_cache="fp16"))


def test_a_scoring_engine_has_no_cache_to_choose() -> None:
    with pytest.raises(UsageError, match="--no-cache builds none"):
        BuildConfig(arch="cpu", cache=False, kv_cache="fp16")


def test_attention_in_bf16_is_refused(tmp_path: Path) -> None:
    export = export_checkpoint(
        ExportConfig(checkpoint=write_llama(tmp_path / "checkpoint"), output=tmp_path / "export")
    )
    config = BuildConfig(model=export, arch="cpu", precision="bf16", kv_cache="fp16", output=tmp_path / "b")
    with pytest.raises(PlanError, match="read by attention in fp32 alone"):
        build_engine(config)
