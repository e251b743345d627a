"""The reference module to and from a checkpoint directory in Hugging Face's layout."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from r1trt.artifacts.atomic import atomic_directory
from r1trt.artifacts.directory import ModelDirectory
from r1trt.checkpoint import Checkpoint, checkpoint_from_dir
from r1trt.checkpoint.names import INDEX_FILE, SINGLE_FILE
from r1trt.errors import CheckpointError
from r1trt.families import model_config_from_dict
from r1trt.model.decoder import R1AsaForCausalLM

# NOTES: a correction of scores that differ by less than a BF16 step; DeepSeek-V3 stores it in FP32 too.
ALWAYS_FP32 = "e_score_correction_bias"


def save_checkpoint(
    module: R1AsaForCausalLM,
    directory: Path,
    raw_config: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int | None = None,
) -> None:
    """Writes config.json and the weights, with an index when there is more than one file.

    Args:
        module: The module; its parameter names are the tensor names.
        directory: Checkpoint directory; absent or empty, and still so on failure.
        raw_config: The config.json dict that the module was made from.
        dtype: Type of the stored weights; the module's by default. FP64 is stored as FP32.
        max_shard_bytes: Most bytes of a weight file; one file by default.

    Raises:
        CheckpointError: `raw_config` does not describe the module.
        ArtifactError: `directory` holds something.
    """
    if model_config_from_dict(raw_config, where=ModelDirectory(path=directory).config) != module.config:
        raise CheckpointError("raw_config does not describe the module.", where=directory)
    tensors = {name: _stored(name, tensor, dtype) for name, tensor in module.state_dict().items()}
    shards = list(_shards(tensors, max_shard_bytes))
    with atomic_directory(directory) as target:
        config = {**raw_config, "dtype": str(_stored("", next(module.parameters()), dtype).dtype)[6:]}
        _write_json(ModelDirectory(path=target).config, config)
        names = [SINGLE_FILE]
        if len(shards) > 1:
            names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
            _write_json(target / INDEX_FILE, _index(shards, names))
        for name, shard in zip(names, shards, strict=True):
            save_file(shard, target / name, metadata={"format": "pt"})


def _stored(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    wanted = dtype or tensor.dtype
    if name.endswith(ALWAYS_FP32) or wanted == torch.float64:
        wanted = torch.float32
    return tensor.detach().to("cpu", wanted).contiguous()


def _shards(tensors: Mapping[str, Tensor], max_bytes: int | None) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        if shard and max_bytes is not None and size + tensor.nbytes > max_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


def _index(shards: list[dict[str, Tensor]], names: list[str]) -> dict[str, Any]:
    total = sum(tensor.nbytes for shard in shards for tensor in shard.values())
    weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    return {"metadata": {"total_size": total}, "weight_map": weight_map}


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def load_checkpoint(
    directory: Path, dtype: torch.dtype | None = None, *, max_seq_len: int | None = None
) -> R1AsaForCausalLM:
    """Reads a checkpoint of any supported family into the reference module.

    Args:
        directory: Holds config.json and safetensors files.
        dtype: Type of the module's parameters; each keeps its stored type by default.
        max_seq_len: See `R1AsaForCausalLM`.

    Returns:
        The module, in evaluation mode.

    Raises:
        CheckpointError: A file is missing or damaged, or tensors are missing, unexpected or of another shape.
        ConfigError: The configuration is not supported.
    """
    checkpoint = checkpoint_from_dir(Path(directory))
    if checkpoint.scales:
        raise CheckpointError(
            "The PyTorch module does not read FP8 weights with block scales.",
            where=checkpoint.path,
            found=f"{len(checkpoint.scales)} FP8 weights",
            expected="BF16, FP16 or FP32 weights",
            fix="take a checkpoint whose weights are dequantized",
        )
    with torch.device("meta"):
        module = R1AsaForCausalLM(checkpoint.config, max_seq_len)
    tensors = {name: _loaded(name, tensor, dtype) for name, tensor in _stored_tensors(checkpoint)}
    module.load_state_dict(tensors, assign=True)
    return module.eval()


def _loaded(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None or (name.endswith(ALWAYS_FP32) and dtype != torch.float64):
        return tensor
    return tensor.to(dtype)


def _stored_tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    for header in checkpoint.files:
        path = checkpoint.path / header.file
        try:
            with safe_open(path, framework="pt") as file:
                for ref in header.tensors:
                    if ref.name in checkpoint.tensors:
                        yield ref.name, file.get_tensor(ref.name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError("A weight file cannot be read.", where=path, found=error) from error
