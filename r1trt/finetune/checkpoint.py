"""The result: a checkpoint of BF16 weights, and beside it the plan with the scales of its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from r1trt.artifacts.directory import ModelDirectory
from r1trt.calibrate.weights import weight_scales
from r1trt.checkpoint import Checkpoint
from r1trt.export.io import ExportedModel
from r1trt.export.tokenizer_conversion import files_of_forms
from r1trt.finetune.config import FinetuneConfig
from r1trt.model import R1AsaForCausalLM, save_checkpoint
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.rules import plan_from_rules
from r1trt.progress import Progress, ignore

FINETUNED = "r1trt_finetuning"
"""Key of config.json: a list, what was done by each fine-tuning."""
_CODE, _OLD_DTYPE = "auto_map", "torch_dtype"
_SHARD_BYTES = 5_000_000_000


def write_checkpoint(
    checkpoint: Checkpoint, module: R1AsaForCausalLM, directory: Path, record: Mapping[str, Any]
) -> None:
    """Write the weights, a config.json that says what was done, and the files beside them.

    Args:
        checkpoint: The one that was fine-tuned.
        module: The weights.
        directory: An empty directory.
        record: What config.json says of it.
    """
    raw = {key: value for key, value in checkpoint.raw_config.items() if key not in (_CODE, _OLD_DTYPE)}
    before = raw.get(FINETUNED)
    raw[FINETUNED] = [*(before if isinstance(before, list) else []), dict(record)]
    save_checkpoint(module, directory, raw, dtype=torch.bfloat16, max_shard_bytes=_SHARD_BYTES)
    source = ModelDirectory(path=checkpoint.path)
    licences = sorted(path for path in source.path.glob("LICENSE*") if path.is_file())
    beside = [path for path in source.companions if path != source.config]
    source.copy_files_to(directory, [*beside, *files_of_forms(source.path), *licences])


def plan_of_result(
    export: ExportedModel,
    config: FinetuneConfig,
    scales: Mapping[str, Mapping[str, float]],
    record: Mapping[str, str | int | float],
    progress: Progress = ignore,
) -> PrecisionPlan:
    """The plan that training followed, with all its scales.

    Args:
        export: The result, exported.
        config: Architecture and precision.
        scales: Of activations, by layer, as training left them; those of weights are the result's own.
        record: What the plan says of them.
        progress: Called with (phase, done, total).
    """
    plan = plan_from_rules(export.model, config.arch, config.precision)
    layers = dict(plan.layers)
    for found in (scales, weight_scales(plan, export.model, progress)):
        layers |= {key: replace(layers[key], **found[key]) for key in found}
    return replace(plan, layers=layers, calibration={**plan.calibration, **record})
