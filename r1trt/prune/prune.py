"""`r1trt prune`: a checkpoint without the experts that matter least on a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from r1trt import __version__
from r1trt.artifacts.atomic import atomic_directory, require_new_directory
from r1trt.artifacts.directory import ModelDirectory
from r1trt.artifacts.disk import replace_file, require_free_space
from r1trt.artifacts.manifest import json_text
from r1trt.checkpoint import Checkpoint, checkpoint_from_dir
from r1trt.config import MoeConfig
from r1trt.errors import ConfigError, R1TrtError
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.export.io import ExportedModel, load_export
from r1trt.lifetime.temporary import temporary_directory
from r1trt.packages import require_packages
from r1trt.progress import Progress, ignore
from r1trt.prune.accuracy import accuracy_of
from r1trt.prune.cautions import cautions
from r1trt.prune.checkpoint import notes_of_pruning, write_checkpoint
from r1trt.prune.config import PruneConfig
from r1trt.prune.page import page_of_result
from r1trt.prune.result import PruneResult, Size
from r1trt.prune.scores import expert_scores
from r1trt.prune.selection import choose_experts, kept_count
from r1trt.prune.shards import KeptTensor, kept_tensors
from r1trt.prune.texts import Texts, texts_of_pruning

REPORT_FILE, PAGE_FILE = "pruning.json", "pruning.html"


def prune_checkpoint(config: PruneConfig, progress: Progress = ignore) -> PruneResult:
    """Score experts on text, and write a checkpoint with those that do most.

    Scores are kept in the cache: a pruning that was cut off does not measure again what it has measured.

    Args:
        config: What to prune, and how.
        progress: Called with (phase, done, total).

    Returns:
        What was done; the output directory holds a checkpoint, `pruning.json` and `pruning.html`.

    Raises:
        R1TrtError: The checkpoint, a text or the number of experts cannot be used, the output is there
            already, or the disk is full. Nothing is left in its place.
    """
    evaluation = {} if config.dry_run else {"polygraphy": "torch"}
    require_packages("A pruning", {"onnxruntime": "cpu", **evaluation})
    checkpoint = checkpoint_from_dir(config.checkpoint)
    moe = _experts_of(checkpoint)
    count = _count(checkpoint, moe, config)
    if not config.dry_run:
        require_new_directory(config.output)
    with temporary_directory("prune") as scratch:
        before = _exported(config.checkpoint, scratch / "before")
        texts = texts_of_pruning(config, before)
        result, tensors = _chosen(config, checkpoint, before, texts, count, progress)
        if config.dry_run:
            return result
        require_free_space(config.output, result.after.bytes)
        with atomic_directory(config.output, replace=False) as directory:
            record = _record(result)
            write_checkpoint(checkpoint, tensors, directory, count=count, record=record, progress=progress)
            after = _exported(directory, scratch / "after")
            result = replace(result, accuracy=accuracy_of(before, after, texts.heldout, progress))
            replace_file(directory / REPORT_FILE, json_text(result.to_json()))
            replace_file(directory / PAGE_FILE, page_of_result(result))
    return result


def _experts_of(checkpoint: Checkpoint) -> MoeConfig:
    """The configuration that all layers with experts share."""
    found = {layer.mlp for layer in checkpoint.config.layers if isinstance(layer.mlp, MoeConfig)}
    if not found:
        raise ConfigError(
            "The model has no experts to remove.",
            where=ModelDirectory(path=checkpoint.path).config,
            found=f"{checkpoint.config.architecture}, all of whose layers are dense",
            expected="a mixture of experts: DeepSeek-V2, V3 or R1, or R1-ASA",
        )
    (moe,) = found
    return moe


def _count(checkpoint: Checkpoint, moe: MoeConfig, config: PruneConfig) -> int:
    try:
        return kept_count(moe, config)
    except R1TrtError as error:
        raise error.within(ModelDirectory(path=checkpoint.path).config) from error


def _exported(checkpoint: Path, directory: Path) -> ExportedModel:
    return load_export(export_checkpoint(ExportConfig(checkpoint=checkpoint, output=directory)))


def _chosen(
    config: PruneConfig,
    checkpoint: Checkpoint,
    export: ExportedModel,
    texts: Texts,
    count: int,
    progress: Progress,
) -> tuple[PruneResult, list[KeptTensor]]:
    """What is to be done, and what stays of the weights."""
    moe = _experts_of(checkpoint)
    scores = expert_scores(export, texts.scored, progress)
    choices = choose_experts(scores, moe, count, config)
    tensors = kept_tensors(checkpoint, {choice.scores.layer: choice.kept for choice in choices})
    result = PruneResult(
        facts=_facts(config, checkpoint, moe, texts),
        before=_size_before(checkpoint, moe),
        after=_size_after(checkpoint, tensors, count),
        choices=tuple(choices),
        accuracy=None,
        cautions=tuple(cautions(moe, choices, config.criterion)),
        notes=tuple(notes_of_pruning(checkpoint)),
    )
    return result, tensors


def _facts(config: PruneConfig, checkpoint: Checkpoint, moe: MoeConfig, texts: Texts) -> dict[str, Any]:
    return {
        "model": config.checkpoint.resolve().name,
        "architecture": checkpoint.config.architecture,
        "r1trt": __version__,
        "criterion": config.criterion,
        "seed": (config.seed or 0) if config.criterion == "random" else None,
        "groups": moe.n_group,
        "experts_a_token": moe.top_k,
        **texts.facts,
    }


def _size_before(checkpoint: Checkpoint, moe: MoeConfig) -> Size:
    stored = [*checkpoint.tensors.values(), *checkpoint.scales.values()]
    return Size(
        experts=moe.num_experts,
        parameters=sum(math.prod(ref.shape) for ref in checkpoint.tensors.values()),
        bytes=sum(ref.length for ref in stored),
    )


def _size_after(checkpoint: Checkpoint, tensors: Sequence[KeptTensor], count: int) -> Size:
    weights = [tensor for tensor in tensors if tensor.ref.name in checkpoint.tensors]
    return Size(
        experts=count,
        parameters=sum(math.prod(tensor.shape) for tensor in weights),
        bytes=sum(tensor.length for tensor in tensors),
    )


def _record(result: PruneResult) -> dict[str, Any]:
    """What config.json says of it."""
    names = ("r1trt", "criterion", "seed", "calibration", "calibration_sha256", "calibration_tokens")
    return {
        "experts_before": result.before.experts,
        "experts": result.after.experts,
        **{name: result.facts[name] for name in names},
        "report": REPORT_FILE,
    }
