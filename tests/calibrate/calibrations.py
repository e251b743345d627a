"""Tiny checkpoints, exported and calibrated, and what PyTorch's hooks see on the same text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from r1trt.calibrate.calibrate import CalibrationConfig, calibrated_plan
from r1trt.calibrate.text import TokenChunks, token_chunks
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.export.io import ExportedModel, load_export
from r1trt.model import load_checkpoint
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.rules import plan_from_rules
from r1trt.progress import Progress, ignore
from r1trt.tokenizer.text_tokenizer import tokenizer_from_dir

TOKENS, CHUNK = 300, 64
TEXT = "The cat sat on the mat, and 17 other things happened on 3 May. " * 40


def exported(checkpoint: Path, directory: Path) -> ExportedModel:
    return load_export(
        export_checkpoint(ExportConfig(checkpoint=checkpoint, output=directory, max_seq_len=64))
    )


def config_for(checkpoint: Path, directory: Path, **options: Any) -> CalibrationConfig:
    text = directory / "text.txt"
    text.write_text(TEXT)
    defaults: dict[str, Any] = {"method": "amax", "tokens": TOKENS, "chunk": CHUNK}
    return CalibrationConfig(**{"tokenizer": checkpoint, "text": text, **defaults, **options})


def calibrated(
    model: ExportedModel, config: CalibrationConfig, scaling: Any = "tensor", progress: Progress = ignore
) -> PrecisionPlan:
    plan = plan_from_rules(model.model, "ada", "fp8", weight_scaling=scaling)
    return calibrated_plan(plan, model.model, model.weight_base, config, progress)


def chunks_of(config: CalibrationConfig) -> TokenChunks:
    ids = tokenizer_from_dir(config.tokenizer).encode(TEXT)
    return token_chunks([ids], length=config.chunk, tokens=config.tokens)


def seen_by_hooks(checkpoint: Path, config: CalibrationConfig) -> dict[str, list[torch.Tensor]]:
    """Inputs of every nn.Linear of the PyTorch reference on the same chunks, by module name."""
    module = load_checkpoint(checkpoint, torch.float32)
    seen: dict[str, list[torch.Tensor]] = {}
    for name, child in module.named_modules():
        if isinstance(child, torch.nn.Linear):
            child.register_forward_hook(
                lambda _m, inputs, _y, name=name: seen.setdefault(name, []).append(inputs[0].flatten())
            )
    with torch.no_grad():
        for chunk in chunks_of(config):
            module(torch.from_numpy(chunk)[None])
    return seen


def edit_weight(checkpoint: Path, name: str, edit: Callable[[torch.Tensor], object]) -> None:
    """Change one weight of a checkpoint of a single file, in place."""
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    edit(tensors[name])
    save_file(tensors, path, metadata={"format": "pt"})
