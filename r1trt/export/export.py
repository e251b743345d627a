"""`r1trt export`: a checkpoint directory becomes an export directory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from r1trt import __version__
from r1trt.artifacts.atomic import atomic_directory
from r1trt.artifacts.directory import ModelDirectory
from r1trt.artifacts.disk import sha256_of_file
from r1trt.artifacts.export import ExportDirectory, ExportManifest, ExportWeights, WeightFile
from r1trt.checkpoint import Checkpoint, checkpoint_from_dir
from r1trt.config import ModelConfig
from r1trt.config.length import require_positions, require_window
from r1trt.errors import ConfigError, UsageError
from r1trt.export.companions import write_companions
from r1trt.export.model import check_model, onnx_from_checkpoint
from r1trt.export.weights import WeightLayout, copied_weights, copy_weights, weights_in_place
from r1trt.families.tensors import nextn_layer
from r1trt.progress import Progress, ignore
from r1trt.rope import LENGTH_DEPENDENT_KINDS

DEFAULT_CAPACITY = 4096


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Options of an export.

    Attributes:
        checkpoint: Hugging Face directory.
        output: Export directory to write.
        max_seq_len: Rows of the KV cache in tokens; None means the model's own limit, at most 4096.
        copy: Put the weights beside the graph, so that the export can travel.
        last_token_logits: Compute the logits of each sequence's last token only.
    """

    checkpoint: Path
    output: Path
    max_seq_len: int | None = None
    copy: bool = False
    last_token_logits: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError for a capacity below one token."""
        if self.max_seq_len is not None and self.max_seq_len < 1:
            raise UsageError("--max-seq-len is too small.", found=self.max_seq_len, expected="at least 1")


def export_checkpoint(config: ExportConfig, progress: Progress = ignore) -> Path:
    """Export a checkpoint.

    Args:
        config: What to export, and where to.
        progress: Called with (phase, done, total); bytes for the copy, steps elsewhere.

    Returns:
        The export directory: `model.onnx`, `manifest.json`, the tokenizer's files, and with `copy` the
        weights.

    Raises:
        CheckpointError: The checkpoint is damaged or incomplete.
        ConfigError: Its configuration is not one that is implemented.
        ExportError: The graph does not pass ONNX's checker.
    """
    progress("reading headers", 0, 1)
    checkpoint, capacity = checked_export(config)
    progress("building the graph", 0, 1)
    weights = copied_weights(checkpoint) if config.copy else weights_in_place(checkpoint)
    model = onnx_from_checkpoint(
        checkpoint, capacity, last_token_logits=config.last_token_logits, locations=weights.locations
    )
    check_model(model)
    with atomic_directory(config.output, kind=ExportManifest.KIND) as directory:
        if config.copy:
            copy_weights(checkpoint, directory, progress)
        progress("writing", 0, 1)
        ir.save(model, ExportDirectory(path=directory).graph)
        notes = write_companions(checkpoint.path, directory, vocab_size=checkpoint.config.vocab_size)
        notes = [*_notes(checkpoint, capacity), *notes]
        _manifest(config, checkpoint, capacity, weights, model, notes).write(directory)
        progress("writing", 1, 1)
    return config.output


def checked_export(config: ExportConfig) -> tuple[Checkpoint, int]:
    """What an export starts from: the checkpoint, from its headers, and the rows of the KV cache in tokens.

    Raises:
        CheckpointError: The checkpoint is damaged or incomplete.
        ConfigError: Its configuration is not one that is implemented, or the options do not fit it.
    """
    checkpoint = checkpoint_from_dir(config.checkpoint)
    where = ModelDirectory(path=checkpoint.path).config
    capacity = export_capacity(checkpoint.config, config.max_seq_len, where=where)
    _require_output_apart(config.output, checkpoint.path)
    return checkpoint, capacity


def export_capacity(model: ModelConfig, max_seq_len: int | None, *, where: object = None) -> int:
    """Rows of a model's KV cache in tokens: those asked for, or the model's own limit, at most 4096.

    Args:
        model: The model.
        max_seq_len: What was asked for.
        where: File that the model's configuration comes from.

    Raises:
        ConfigError: The model does not compute sequences of this length.
    """
    capacity = max_seq_len or min(model.max_position_embeddings, DEFAULT_CAPACITY)
    require_positions(model, capacity, "--max-seq-len", where=where)
    require_window(model, capacity, "--max-seq-len", where=where)
    return capacity


def _require_output_apart(output: Path, checkpoint: Path) -> None:
    """Refuse to replace a directory that holds the checkpoint: an export with copied weights is one, too."""
    target, sources = output.resolve(), {checkpoint.resolve()}
    sources |= {path.resolve().parent for path in checkpoint.glob("*.safetensors")}
    for source in sorted(sources):
        if source.is_relative_to(target):
            raise ConfigError(
                "The output directory holds the checkpoint, which it would replace.",
                where=target,
                found=f"weights in {source}",
                fix="choose another output directory with -o",
            )


def _manifest(
    config: ExportConfig,
    checkpoint: Checkpoint,
    capacity: int,
    weights: WeightLayout,
    model: ir.Model,
    notes: Sequence[str],
) -> ExportManifest:
    files = [
        WeightFile(
            name=weights.locations[header.file],
            bytes=header.file_bytes,
            header_sha256=header.header_sha256,
            modified_ns=header.modified_ns,
        )
        for header in checkpoint.files
    ]
    return ExportManifest(
        model_name=config.output.resolve().name,
        r1trt=__version__,
        family=checkpoint.config.family,
        checkpoint=str(checkpoint.path.resolve()),
        capacity=capacity,
        last_token_logits=config.last_token_logits,
        weights=ExportWeights(base_directory=weights.base_directory, files=tuple(files)),
        config=dict(checkpoint.raw_config),
        config_sha256=sha256_of_file(ModelDirectory(path=checkpoint.path).config),
        nodes=len(model.graph),
        notes=tuple(notes),
        parameters=sum(math.prod(ref.shape) for ref in checkpoint.tensors.values()),
    )


def _notes(checkpoint: Checkpoint, capacity: int) -> list[str]:
    """What a user has to know of this export: where it deviates from what the checkpoint says."""
    kind, notes = checkpoint.config.rope.kind, list(checkpoint.notes)
    if kind in LENGTH_DEPENDENT_KINDS:
        notes.append(
            f"RoPE of type '{kind}' follows the current length in transformers; here its frequencies are "
            f"frozen at {capacity} tokens (--max-seq-len), so that cached keys stay valid."
        )
    if checkpoint.config.quantization is not None and not checkpoint.scales:
        notes.append("config.json has a quantization_config, but no tensor is FP8: the key is ignored.")
    notes += [
        f"Layer {layer} of the checkpoint predicts a further token (num_nextn_predict_layers); its {count} "
        "tensors are skipped."
        for layer, count in sorted(_skipped_layers(checkpoint).items())
    ]
    return notes


def _skipped_layers(checkpoint: Checkpoint) -> Counter[int]:
    """Tensors of each layer behind the last."""
    names = (tensor.name for file in checkpoint.files for tensor in file.tensors)
    found = (nextn_layer(checkpoint.config, name) for name in names)
    return Counter(layer for layer in found if layer is not None)
