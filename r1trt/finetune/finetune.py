"""`r1trt finetune`: a checkpoint that has been trained with the roundings of a precision plan."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1trt import __version__
from r1trt.arch import architecture
from r1trt.artifacts.atomic import atomic_directory, require_new_directory
from r1trt.artifacts.build import BuildDirectory
from r1trt.artifacts.directory import ModelDirectory
from r1trt.artifacts.disk import replace_file, require_free_space, sha256_of_file
from r1trt.artifacts.lock import locked_for_writing
from r1trt.artifacts.manifest import json_text
from r1trt.calibrate.calibrate import CalibrationConfig, calibrated_plan
from r1trt.checkpoint import Checkpoint, checkpoint_from_dir
from r1trt.config import GqaConfig
from r1trt.errors import ConfigError
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.export.io import ExportedModel, load_export
from r1trt.finetune.accuracy import Accuracy, Judge
from r1trt.finetune.config import FinetuneConfig, recomputed_layers
from r1trt.finetune.result import FinetuneResult, Memory
from r1trt.finetune.state import load_state, save_state
from r1trt.finetune.texts import Texts, texts_of_finetuning, window_size
from r1trt.lifetime.temporary import temporary_directory
from r1trt.packages import require_packages
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.plan_file import save_plan
from r1trt.precision.rules import plan_from_rules
from r1trt.progress import Progress, ignore

if TYPE_CHECKING:
    from r1trt.finetune.training import Training

REPORT_FILE = "finetuning.json"
_STATE_BYTES, _RESULT_BYTES = 2 * 12, 2
"""Of a parameter: two states of a master and two moments in FP32; a BF16 weight."""


@dataclass(frozen=True, kw_only=True)
class _Source:
    """What is fine-tuned.

    Attributes:
        checkpoint: The checkpoint.
        export: It as a graph.
        plan: The plan that is followed, with the scales of a calibration.
        texts: What is read.
    """

    checkpoint: Checkpoint
    export: ExportedModel
    plan: PrecisionPlan
    texts: Texts


def finetune_checkpoint(config: FinetuneConfig, progress: Progress = ignore) -> FinetuneResult:
    """Train a checkpoint with the roundings of a precision plan.

    What was cut off goes on where it was last saved, if the same is asked for again.

    Args:
        config: What to train, and how.
        progress: Called with (phase, done, total).

    Returns:
        What was done; the output directory holds a checkpoint, its precision plan with all scales, and
        `finetuning.json`.

    Raises:
        R1TrtError: The checkpoint, a text or an option cannot be used, the output is there already, numbers
            are not finite, or the disk is full. Nothing is left in the output's place.
    """
    require_packages("A fine-tuning", {"onnxruntime": "cpu", "scipy": "cpu", "torch": "torch"})
    checkpoint = checkpoint_from_dir(config.checkpoint)
    _require_reference(checkpoint)
    require_new_directory(config.output)
    recomputed_layers(config, checkpoint.config.num_layers)
    parameters = sum(math.prod(ref.shape) for ref in checkpoint.tensors.values())
    require_free_space(config.output, (_STATE_BYTES + _RESULT_BYTES) * parameters)
    with temporary_directory("finetune") as scratch:
        export = _exported(config.checkpoint, scratch / "before")
        texts = texts_of_finetuning(config, export)
        plan = _calibrated(config, export, progress)
        source = _Source(checkpoint=checkpoint, export=export, plan=plan, texts=texts)
        return _trained(config, source, scratch, progress)


def _require_reference(checkpoint: Checkpoint) -> None:
    """Refuses, before anything is read, what `load_checkpoint` would refuse."""
    config = checkpoint.config
    if not all(isinstance(layer.attention, GqaConfig) for layer in config.layers):
        raise ConfigError(
            "The model has no PyTorch reference module to train.",
            where=checkpoint.path,
            found=f"{config.architecture}, whose attention is latent",
            expected="attention with grouped queries: Llama, Mistral, Qwen2, Qwen3 or R1-ASA",
        )
    if checkpoint.scales:
        raise ConfigError(
            "The checkpoint's weights are quantized already, and nothing trains those.",
            where=checkpoint.path,
            found=f"{len(checkpoint.scales)} FP8 weights with block scales",
            expected="BF16, FP16 or FP32 weights",
            fix="take a checkpoint whose weights are dequantized",
        )


def _exported(checkpoint: Path, directory: Path) -> ExportedModel:
    return load_export(export_checkpoint(ExportConfig(checkpoint=checkpoint, output=directory)))


def _calibrated(config: FinetuneConfig, export: ExportedModel, progress: Progress) -> PrecisionPlan:
    plan = plan_from_rules(export.model, architecture(config.arch).name, config.precision)
    options = CalibrationConfig(
        tokenizer=export.path,
        text=config.text,
        chunk=window_size(export.config, config),
        weights=export.weight_marks(),
    )
    return calibrated_plan(plan, export.model, export.weight_base, options, progress)


def _trained(config: FinetuneConfig, source: _Source, scratch: Path, progress: Progress) -> FinetuneResult:
    # NOTES: torch takes seconds to import; what is wrong with the input was said before.
    from r1trt.finetune.checkpoint import plan_of_result, write_checkpoint
    from r1trt.finetune.training import threads_of_torch

    recomputed = recomputed_layers(config, source.checkpoint.config.num_layers)
    config.output.parent.mkdir(parents=True, exist_ok=True)
    with threads_of_torch(config.threads), locked_for_writing(config.state):
        training = _new_training(config, source)
        memory = _memory(config, training, recomputed)
        training.planned.module.recomputed = recomputed
        resumed_at = _run(config, source, training, progress)
    facts = _facts(config, source)
    training.planned.store_weights()
    with atomic_directory(config.output, replace=False) as directory:
        write_checkpoint(source.checkpoint, training.planned.module, directory, _record(facts))
        after = _exported(directory, scratch / "after")
        plan = plan_of_result(
            after, config, training.planned.activation_scales(), _plan_record(facts), progress
        )
        save_plan(plan, BuildDirectory(path=directory).precision_plan)
        judge = Judge(source.export, config.arch, source.texts.heldout, progress)
        accuracy = Accuracy(calibrated=judge.calibrated(source.plan), tuned=judge.tuned(after, plan))
        result = FinetuneResult(
            facts=facts,
            losses=tuple(training.losses),
            resumed_at=resumed_at,
            memory=memory,
            accuracy=accuracy,
        )
        replace_file(directory / REPORT_FILE, json_text(result.to_json()))
    shutil.rmtree(config.state, ignore_errors=True)
    return result


def _new_training(config: FinetuneConfig, source: _Source) -> Training:
    import torch

    from r1trt.finetune.planned_module import PlannedModule
    from r1trt.finetune.training import Training
    from r1trt.model import load_checkpoint

    path = config.checkpoint
    return Training(
        planned=PlannedModule(load_checkpoint(path, torch.float32), source.plan),
        teacher=load_checkpoint(path, torch.float32) if config.loss == "distillation" else None,
        text=source.texts.training,
        learning_rate=config.learning_rate,
    )


def _memory(config: FinetuneConfig, training: Training, recomputed: frozenset[int]) -> Memory | None:
    if config.keep_layers is None:
        return None
    layers = range(training.planned.module.config.num_layers)
    return Memory(
        kept=training.peak_bytes(frozenset()),
        recomputed=training.peak_bytes(recomputed),
        kept_layers=tuple(layer for layer in layers if layer not in recomputed),
    )


def _run(config: FinetuneConfig, source: _Source, training: Training, progress: Progress) -> int:
    """Trains to the end, saving now and then; returns how many steps an earlier run had done."""
    run, steps = _run_of(config, source), training.text.steps
    state = load_state(config.state, run)
    if state is not None:
        training.resume(state)
    resumed_at = len(training.losses)
    while not training.done:
        progress("training", len(training.losses), steps)
        training.advance()
        if training.done or len(training.losses) % config.save_every == 0:
            save_state(config.state, run, training.state())
    progress("training", steps, steps)
    return resumed_at


def _run_of(config: FinetuneConfig, source: _Source) -> dict[str, Any]:
    """What decides the result: a state of anything else is not resumed."""
    files = {
        header.file: sha256_of_file(source.checkpoint.path / header.file)
        for header in source.checkpoint.files
    }
    return {
        "config": sha256_of_file(ModelDirectory(path=source.checkpoint.path).config),
        "checkpoint": files,
        "windows": source.texts.training.sha256,
        **_options(config),
        "version": __version__,
    }


def _options(config: FinetuneConfig) -> dict[str, Any]:
    names = ("arch", "precision", "loss", "epochs", "batch", "learning_rate", "seed")
    return {name: getattr(config, name) for name in names}


def _facts(config: FinetuneConfig, source: _Source) -> dict[str, Any]:
    return {
        "model": config.checkpoint.resolve().name,
        "architecture": source.checkpoint.config.architecture,
        "r1trt": __version__,
        **_options(config),
        "steps": source.texts.training.steps,
        **source.texts.facts,
    }


def _record(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says of it."""
    names = (
        "r1trt",
        "arch",
        "precision",
        "loss",
        "epochs",
        "steps",
        "batch",
        "window",
        "learning_rate",
        "seed",
    )
    return {**{name: facts[name] for name in (*names, "text", "text_sha256")}, "report": REPORT_FILE}


def _plan_record(facts: Mapping[str, Any]) -> dict[str, str | int | float]:
    """What the plan says of its scales."""
    return {"method": "fine-tuning", **{name: facts[name] for name in ("steps", "text", "text_sha256")}}
