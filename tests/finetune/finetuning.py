"""A tiny R1-ASA to fine-tune, its texts, and a training of it without the command around."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny_checkpoints import write_r1_asa

from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.export.io import ExportedModel, load_export
from r1trt.finetune.config import FinetuneConfig
from r1trt.finetune.planned_module import PlannedModule
from r1trt.finetune.texts import TrainingText, training_windows
from r1trt.finetune.training import Training
from r1trt.model import load_checkpoint
from r1trt.ops.registry import operator_of_layer
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.rules import plan_from_rules
from r1trt.tokenizer.text_tokenizer import tokenizer_from_dir

TEXT = "The cat sat on the mat, and 17 other things happened on 3 May. " * 40
HELDOUT = "A dog of another house barked: who knows what it had seen? Nobody asked, and so it slept. " * 40
WINDOW = 32
SCALE = 0.01
"""Of activations: their largest are some, so that codes reach them all."""


def write_model(directory: Path, **options: Any) -> Path:
    """Adaptive experts and a shared one; sizes that FP8 products take."""
    defaults = {"adaptive_threshold": 0.6, "num_shared_experts": 1, "shared_intermediate_size": 32}
    return write_r1_asa(directory, tokenizer=True, dtype="bfloat16", **{**defaults, **options})


def exported(checkpoint: Path, directory: Path) -> ExportedModel:
    return load_export(export_checkpoint(ExportConfig(checkpoint=checkpoint, output=directory)))


def plan_with_scales(export: ExportedModel, scale: float = SCALE) -> PrecisionPlan:
    """The rules' plan with one scale for all activations; those of weights are missing."""
    plan = plan_from_rules(export.model, "ada", "fp8")
    layers = {
        key: replace(layer, **dict.fromkeys(operator_of_layer(layer).missing_input_scales(layer), scale))
        for key, layer in plan.layers.items()
    }
    return replace(plan, layers=layers)


def training_text(checkpoint: Path, *, batch: int = 2, epochs: int = 2) -> TrainingText:
    encoded = [tokenizer_from_dir(checkpoint).encode(TEXT)[: 8 * WINDOW + 1]]
    windows = training_windows(encoded, size=WINDOW, batch=batch)
    return TrainingText(windows=windows, batch=batch, epochs=epochs, seed=0)


def new_training(
    checkpoint: Path, plan: PrecisionPlan, *, distil: bool = True, rate: float = 1e-3
) -> Training:
    return Training(
        planned=PlannedModule(load_checkpoint(checkpoint, torch.float32), plan),
        teacher=load_checkpoint(checkpoint, torch.float32) if distil else None,
        text=training_text(checkpoint),
        learning_rate=rate,
    )


def config_for(checkpoint: Path, directory: Path, **options: Any) -> FinetuneConfig:
    """A fine-tuning of a few steps, whose texts lie in the directory, and whose result does."""
    texts = {"text": TEXT, "heldout": HELDOUT}
    for name, text in texts.items():
        (directory / f"{name}.txt").write_text(text)
    defaults: dict[str, Any] = {
        "output": directory / "tuned",
        "epochs": 1,
        "seq_len": WINDOW,
        "heldout_tokens": 300,
        "threads": 1,
        **{name: directory / f"{name}.txt" for name in texts},
    }
    return FinetuneConfig(checkpoint=checkpoint, **{**defaults, **options})
