"""Checkpoints of a model's true names, types and sizes whose weights are holes in sparse files.

Headers, the index and config.json are whole, and so are the scales of FP8 weights, which are random and
positive. A weight's bytes were never written: they read as zeros and take no room.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from r1trt.checkpoint.block_scales import FP8, SCALE_DTYPE, scales_of_weight
from r1trt.config import SCALE_SUFFIXES, ModelConfig, scale_shape
from r1trt.data_types import OF_SAFETENSORS
from r1trt.families import expected_tensors, model_config_from_dict
from r1trt.families.tensors import LAYER, may_be_fp8

ALIGNMENT = 8
PROBE_BYTES = 1 << 30
POOL_SIZE = 1 << 20  # random scales that all others are cut from
WEIGHT_DTYPE = "BF16"
UNQUANTIZED = ".eh_proj.weight"  # the one projection that is published in BF16


@dataclass(frozen=True, kw_only=True)
class SparseTensor:
    """One tensor of the checkpoint.

    Attributes:
        name: Its name.
        dtype: Its type, as safetensors names it.
        shape: Its dimensions.
        begin: Where its bytes begin, counted over the data of all shards.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int

    @property
    def is_scale(self) -> bool:
        """Whether it holds scales, which are written."""
        return self.name.endswith(SCALE_SUFFIXES)

    @property
    def size(self) -> int:
        """Bytes."""
        return int(np.prod(self.shape)) * OF_SAFETENSORS[self.dtype].bytes


def sparse_tensors(raw: Mapping[str, Any]) -> list[SparseTensor]:
    """Lists the tensors of a published checkpoint, in the order of its layers.

    Args:
        raw: config.json; with `quantization_config` projections are FP8, everything else BF16.
    """
    found: list[SparseTensor] = []
    begin = 0
    for name, dtype, shape in _typed(raw):
        found.append(SparseTensor(name=name, dtype=dtype, shape=shape, begin=begin))
        begin += found[-1].size
    return found


def _typed(raw: Mapping[str, Any]) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    config = model_config_from_dict(raw, where=Path("config.json"))
    for name, shape in {**expected_tensors(config), **_nextn_tensors(raw, config)}.items():
        if not may_be_fp8(config, name) or name.endswith(UNQUANTIZED):
            yield name, WEIGHT_DTYPE, shape
            continue
        yield name, FP8, shape
        yield scales_of_weight(config, name), SCALE_DTYPE, scale_shape(shape)


def _nextn_tensors(raw: Mapping[str, Any], config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Tensors of the layers behind the last, which predict further tokens."""
    count, hidden = config.num_nextn_layers, config.hidden_size
    ends = (config.vocab_size, hidden)
    longer = {**raw, "num_hidden_layers": config.num_layers + count, "num_nextn_predict_layers": 0}
    all_layers = expected_tensors(model_config_from_dict(longer, where=Path("config.json")))
    more = {
        **{"embed_tokens": ends, "enorm": (hidden,), "hnorm": (hidden,), "eh_proj": (hidden, 2 * hidden)},
        **{"shared_head.norm": (hidden,), "shared_head.head": ends},
    }
    found: dict[str, tuple[int, ...]] = {}
    for layer in range(config.num_layers, config.num_layers + count):
        prefix = LAYER.format(layer=layer)
        found |= {name: shape for name, shape in all_layers.items() if name.startswith(prefix)}
        found |= {f"{prefix}{name}.weight": shape for name, shape in more.items()}
    return found


def write_sparse_checkpoint(directory: Path, raw: Mapping[str, Any], shards: int) -> dict[str, int]:
    """Writes config.json, the index and `shards` sparse files of about equal sizes.

    Returns:
        Numbers of tensors and shards, bytes of the files as they read, of the scales, and bytes on disk.

    Exits:
        With the figures, where the file system has no sparse files or too little room.
    """
    tensors = sparse_tensors(raw)
    total = tensors[-1].begin + tensors[-1].size
    scales = sum(tensor.size for tensor in tensors if tensor.is_scale)
    directory.mkdir(parents=True)
    check_room(directory, holes=total, written=scales)
    text = json.dumps(dict(raw), indent=2) + "\n"
    (directory / "config.json").write_text(text, encoding="utf-8")
    weight_map: dict[str, str] = {}
    parts = groupby(tensors, key=lambda tensor: min(tensor.begin * shards // total, shards - 1))
    lists = [list(part) for _, part in parts]
    for index, part in enumerate(lists, 1):
        file = f"model-{index:05d}-of-{len(lists):05d}.safetensors" if len(lists) > 1 else "model.safetensors"
        _write_shard(directory / file, part)
        weight_map |= {tensor.name: file for tensor in part}
    if len(lists) > 1:
        index_text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2)
        (directory / "model.safetensors.index.json").write_text(index_text, encoding="utf-8")
    on_disk = sum(path.stat().st_blocks * 512 for path in directory.iterdir())
    figures = {"tensors": len(tensors), "shards": len(lists), "bytes": total, "scale_bytes": scales}
    return {**figures, "bytes_on_disk": on_disk}


def check_room(directory: Path, *, holes: int, written: int) -> None:
    """Ends the program where the file system has no sparse files, or no room for what is written."""
    probe = directory / "probe"
    with probe.open("wb") as file:
        os.truncate(file.fileno(), PROBE_BYTES)
        taken = os.fstat(file.fileno()).st_blocks * 512
    probe.unlink()
    if taken > PROBE_BYTES // 100:
        sys.exit(
            f"{directory} is on a file system without sparse files: a hole of {PROBE_BYTES / 1e9:.1f} GB "
            f"took {taken / 1e9:.1f} GB there, and the checkpoint has {holes / 1e9:,.0f} GB of them; "
            "pass --work-dir on ext4, XFS or tmpfs"
        )
    free, needed = shutil.disk_usage(directory).free, written + (1 << 28)
    if free < needed:
        sys.exit(
            f"{directory} has too little room: {free / 1e9:.2f} GB are free, and {needed / 1e9:.2f} GB are "
            "needed for scales, headers and the export; pass --work-dir with more"
        )


def _write_shard(path: Path, tensors: list[SparseTensor]) -> None:
    first = tensors[0].begin
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for tensor in tensors:
        offsets = [tensor.begin - first, tensor.begin - first + tensor.size]
        header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        data_start = file.tell()
        _write_scales(file, data_start - first, tensors)
        os.truncate(file.fileno(), data_start - first + tensors[-1].begin + tensors[-1].size)


def _write_scales(file: BinaryIO, origin: int, tensors: list[SparseTensor]) -> None:
    pool = np.random.default_rng(0).uniform(1e-5, 1e-3, POOL_SIZE).astype("<f4").tobytes()
    for tensor in tensors:
        if tensor.is_scale:
            file.seek(origin + tensor.begin)
            for begin in range(0, tensor.size, len(pool)):
                file.write(pool[: tensor.size - begin])
    file.flush()
