"""The new checkpoint: weights, a config.json that says what was done, and the files beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from r1trt.artifacts.directory import ModelDirectory
from r1trt.artifacts.disk import replace_file
from r1trt.artifacts.manifest import json_text
from r1trt.checkpoint import Checkpoint
from r1trt.config import ModelConfig, MoeConfig
from r1trt.errors import CheckpointError
from r1trt.export.tokenizer_conversion import files_of_forms
from r1trt.families import model_config_from_dict
from r1trt.families.expert_tensors import with_experts
from r1trt.progress import Progress, ignore
from r1trt.prune.shards import KeptTensor, write_weights

PRUNED = "r1trt_pruning"
"""Key of config.json: a list, what was done by each pruning."""
_CODE = "auto_map"


def pruned_config(config: ModelConfig, count: int) -> ModelConfig:
    """The model with so many experts a layer."""
    layers = tuple(
        replace(layer, mlp=replace(layer.mlp, num_experts=count))
        if isinstance(layer.mlp, MoeConfig)
        else layer
        for layer in config.layers
    )
    return replace(config, layers=layers, num_nextn_layers=0)


def write_checkpoint(
    checkpoint: Checkpoint,
    tensors: Sequence[KeptTensor],
    directory: Path,
    *,
    count: int,
    record: Mapping[str, Any],
    progress: Progress = ignore,
) -> None:
    """Write a checkpoint without some of its experts.

    Args:
        checkpoint: The one that is pruned.
        tensors: What stays of its weights.
        directory: An empty directory.
        count: How many experts of a layer stay.
        record: What config.json says of it.
        progress: Called with ("writing weights", bytes written, bytes in all).

    Raises:
        R1TrtError: A file cannot be read, or is not what it was when its header was read.
    """
    source, target = ModelDirectory(path=checkpoint.path), ModelDirectory(path=directory)
    source.copy_companions_to(directory)
    licences = sorted(path for path in source.path.glob("LICENSE*") if path.is_file())
    source.copy_files_to(directory, [*files_of_forms(source.path), *licences])
    raw = _raw_config(checkpoint, count, record)
    found = model_config_from_dict(raw, where=target.config)
    if found != pruned_config(checkpoint.config, count):
        raise CheckpointError(
            "The new config.json does not say what the new checkpoint is.", where=target.config
        )
    replace_file(target.config, json_text(raw))
    write_weights(checkpoint, tensors, directory, progress)


def _raw_config(checkpoint: Checkpoint, count: int, record: Mapping[str, Any]) -> dict[str, Any]:
    raw = with_experts(checkpoint.config, checkpoint.raw_config, count)
    # Names modules beside the checkpoint, which are not copied; `transformers` knows these families itself.
    raw.pop(_CODE, None)
    before = raw.get(PRUNED)
    return {**raw, PRUNED: [*(before if isinstance(before, list) else []), dict(record)]}


def notes_of_pruning(checkpoint: Checkpoint) -> list[str]:
    """What the new checkpoint does not have, besides experts."""
    notes = list(checkpoint.notes)
    if checkpoint.config.num_nextn_layers:
        notes.append(
            f"The {checkpoint.config.num_nextn_layers} layers that predict further tokens "
            "(num_nextn_predict_layers) are left out: their experts are not executed, and so not scored."
        )
    if _CODE in checkpoint.raw_config:
        notes.append(f"config.json's {_CODE} and the code that it names are left out.")
    return notes
