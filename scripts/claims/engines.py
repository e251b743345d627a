"""Models of a shape as engines: built and timed on the CPU, and modelled on a GPU."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from r1trt.artifacts.directory import ModelDirectory
from r1trt.build.config import BuildConfig
from r1trt.build.pipeline import build_engine
from r1trt.estimate.gpus import DEVICES
from r1trt.estimate.planned import planned_model
from r1trt.estimate.source import sized_model_from_config
from r1trt.estimate.times import seconds_of_call
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.model import R1AsaForCausalLM, save_checkpoint
from r1trt.ops.cost import CallSize
from r1trt.profile.profile import ProfileConfig, profile_model
from r1trt.runtime.load import session_from_engine
from r1trt.runtime.session import Session

ROUNDS, STEPS = 3, 24


def cpu_engine(
    module: R1AsaForCausalLM, raw: Mapping[str, Any], directory: Path, *, capacity: int, batch: int
) -> Path:
    """Builds a model for the CPU in FP32.

    Args:
        module: Its weights.
        raw: Its config.json.
        directory: Where checkpoint, export and build go; what is there is made again.
        capacity: Tokens of a sequence's cache.
        batch: Most sequences at a time.
    """
    shutil.rmtree(directory, ignore_errors=True)
    save_checkpoint(module, directory / "checkpoint", dict(raw), dtype=torch.bfloat16)
    export = export_checkpoint(
        ExportConfig(checkpoint=directory / "checkpoint", output=directory / "export", max_seq_len=capacity)
    )
    return build_engine(
        BuildConfig(
            model=export, arch="cpu", precision="fp32", output=directory / "engine", max_batch_size=batch
        )
    )


def timed_engine(engine: Path, prompt: int, batches: tuple[int, ...]) -> dict[str, Any]:
    """Tokens a second of processor time, with one thread: waiting for others' work does not count.

    Args:
        engine: Of `cpu_engine`.
        prompt: Tokens of each prompt.
        batches: Sequences at a time; each is timed.

    Returns:
        `speeds`: by batch `prefill` and `decode` tokens a second; `weight_bytes`, and `peak_bytes`: weights,
        the cache of a sequence, and what is alive between layers at most.
    """
    with closing(session_from_engine(engine, threads=1)) as session:
        speeds = {str(batch): _speeds(session, prompt, batch) for batch in batches}
    profile = profile_model(ProfileConfig(model=str(engine), measure=False))
    phase = profile.phases[0]
    return {"speeds": speeds, "weight_bytes": phase.total.weight_bytes, "peak_bytes": phase.peak_bytes}


def _speeds(session: Session, prompt: int, batch: int) -> dict[str, float]:
    ids = np.random.default_rng(0).integers(0, 256, (batch, prompt)).astype(np.int64)
    size_B, prefills, steps = np.full(batch, prompt, np.int64), [], []
    for _ in range(ROUNDS):
        session.reset(batch)
        started = time.process_time()
        session.step(ids, size_B, 0 * size_B)
        prefills.append(time.process_time() - started)
        for step in range(STEPS):
            started = time.process_time()
            session.step(ids[:, :1], 0 * size_B + 1, size_B + step)
            steps.append(time.process_time() - started)
    return {"prefill": batch * prompt / median(prefills), "decode": batch / median(steps)}


def modelled(
    raw: Mapping[str, Any], device: str, prompt: int, context: int, batches: tuple[int, ...]
) -> dict[str, Any]:
    """The same on a GPU in BF16, by the roofline, on one card whether it holds the model or not.

    Args:
        raw: A config.json.
        device: Name of the GPU.
        prompt: Tokens of one prompt.
        context: Tokens of each sequence's cache.
        batches: Sequences of decode.
    """
    card = DEVICES[device]
    sized = sized_model_from_config("model", dict(raw), where=ModelDirectory(path=Path("model")).config)
    planned = planned_model(sized, card.arch, "bf16", context)
    prefill = seconds_of_call(planned, CallSize(batch=1, tokens=prompt), card)
    decode = {
        str(batch): batch / seconds_of_call(planned, CallSize(batch=batch, tokens=1, past=context - 1), card)
        for batch in batches
    }
    cache = {str(batch): planned.kv_cache.bytes(batch, context) for batch in batches}
    return {
        "prefill": prompt / prefill,
        "decode": decode,
        "weight_bytes": planned.bytes,
        "memory_bytes": {batch: planned.bytes + size for batch, size in cache.items()},
    }
