"""Engines of a family: generation with `cpu`, and a TensorRT-RTX engine for `ada` that obeys its plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tiny_checkpoints import IM_END
from transformers import AutoModelForCausalLM, AutoTokenizer

from r1trt.arch import BuildPrecision
from r1trt.artifacts.manifest import read_manifest
from r1trt.build.config import BuildConfig
from r1trt.build.pipeline import build_engine
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.precision.plan_file import load_plan
from r1trt.precision.rules import Requantize
from r1trt.runtime.generate import GenerateConfig, generate

PROMPT, NEW_TOKENS = "Every function writes", 20


def build(
    checkpoint: Path,
    directory: Path,
    arch: str,
    precision: BuildPrecision,
    requantize: Requantize = "none",
) -> Path:
    """Exports a checkpoint with a cache of 64 tokens, and builds it."""
    export = export_checkpoint(
        ExportConfig(checkpoint=checkpoint, output=directory / "export", max_seq_len=64)
    )
    config = BuildConfig(
        model=export, arch=arch, precision=precision, requantize=requantize, output=directory / "engine"
    )
    return build_engine(config)


def assert_cpu_engine_generates(checkpoint: Path, directory: Path, reference: Path | None = None) -> None:
    """Greedy tokens are those of `transformers`, which loads `reference` if it is given."""
    engine = build(checkpoint, directory, "cpu", "fp32")
    generation = generate(GenerateConfig(engine=engine, prompt=PROMPT, raw=True, max_new_tokens=NEW_TOKENS))
    assert "".join(generation)
    ids = torch.tensor([AutoTokenizer.from_pretrained(checkpoint)(PROMPT).input_ids])
    model = AutoModelForCausalLM.from_pretrained(reference or checkpoint, dtype=torch.float32)
    want = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        pad_token_id=IM_END,
    )
    assert generation.token_ids == want[0, ids.shape[1] :].tolist()


def assert_fp8_engine_obeys_its_plan(
    checkpoint: Path,
    directory: Path,
    named: Sequence[str] = (),
    product: str = "model.layers.0.self_attn.q_proj",
    requantize: Requantize = "none",
) -> None:
    """The engine for SM89 is there, its network is what the plan asks for, and the plan names `named`."""
    engine = build(checkpoint, directory, "ada", "fp8", requantize)
    manifest = read_manifest(engine, "engine")
    assert manifest["status"] == "complete" and [entry["sm"] for entry in manifest["engines"]] == [89]
    assert manifest["network_check"]["disobeyed"] == 0
    assert manifest["network_check"]["unverified"] == 2  # the two attentions
    layers = load_plan(engine / "precision.yaml").layers
    assert layers[product].weight == "fp8_e4m3"
    for name in named:
        assert layers[name].output == "bf16", name
