"""A checkpoint's weights without some of its experts, written file by file: pieces of tensors are in memory.

Legend: E experts of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from r1trt.artifacts.disk import replace_file
from r1trt.artifacts.manifest import json_text
from r1trt.checkpoint import Checkpoint, SafetensorsHeader, TensorRef, read_safetensors_header
from r1trt.checkpoint.block_scales import weight_of_scales
from r1trt.checkpoint.names import INDEX_FILE, SINGLE_FILE
from r1trt.checkpoint.weights import tensor_bytes
from r1trt.checkpoint.write import HeaderEntry, header_bytes
from r1trt.errors import CheckpointError
from r1trt.families.expert_tensors import ExpertTensor, expert_tensors
from r1trt.progress import Progress, ignore
from r1trt.text import runs

Kept = Mapping[int, Sequence[int]]
"""The experts that stay, ascending, by layer."""


@dataclass(frozen=True, kw_only=True)
class KeptTensor:
    """A tensor of the new checkpoint.

    Attributes:
        ref: Where it comes from.
        name: What it is called there.
        shape: What it is there.
        ranges: Which bytes of the old tensor it is made of: the first, and the first behind them.
    """

    ref: TensorRef
    name: str
    shape: tuple[int, ...]
    ranges: tuple[tuple[int, int], ...]

    @property
    def length(self) -> int:
        """Its bytes."""
        return sum(stop - start for start, stop in self.ranges)

    @property
    def entry(self) -> HeaderEntry:
        """Its place in a header."""
        return HeaderEntry(name=self.name, dtype=self.ref.dtype, shape=self.shape, length=self.length)


def kept_tensors(checkpoint: Checkpoint, kept: Kept) -> list[KeptTensor]:
    """What stays of a checkpoint's model, in the order of its files; what is no part of it does not stay."""
    places = expert_tensors(checkpoint.config)
    found = (
        _kept_tensor(ref, *_place(checkpoint, places, ref.name), kept)
        for header in checkpoint.files
        for ref in header.tensors
        if ref.name in checkpoint.tensors or ref.name in checkpoint.scales
    )
    return [tensor for tensor in found if tensor is not None]


def _place(
    checkpoint: Checkpoint, places: Mapping[str, ExpertTensor], name: str
) -> tuple[ExpertTensor | None, str]:
    """Which experts a tensor belongs to, and what its name has behind that of its weight."""
    weight = weight_of_scales(checkpoint.config, name) or name
    return places.get(weight), name.removeprefix(weight)


def _kept_tensor(ref: TensorRef, place: ExpertTensor | None, suffix: str, kept: Kept) -> KeptTensor | None:
    whole = ((0, ref.length),)
    if place is None:
        return KeptTensor(ref=ref, name=ref.name, shape=ref.shape, ranges=whole)
    experts = kept[place.layer]
    if place.expert is None:
        row = ref.length // ref.shape[0]
        shape = (len(experts), *ref.shape[1:])
        ranges = tuple((first * row, (last + 1) * row) for first, last in runs(experts))
        return KeptTensor(ref=ref, name=ref.name, shape=shape, ranges=ranges)
    if place.expert not in experts:
        return None
    name = place.name_of(experts.index(place.expert)) + suffix
    return KeptTensor(ref=ref, name=name, shape=ref.shape, ranges=whole)


def write_weights(
    checkpoint: Checkpoint, tensors: Sequence[KeptTensor], directory: Path, progress: Progress = ignore
) -> None:
    """Write tensors into as many files as they come from, with an index where that is more than one.

    Args:
        checkpoint: Where they come from.
        tensors: Of each file in a row.
        directory: An existing directory.
        progress: Called with ("writing weights", bytes written, bytes in all).

    Raises:
        CheckpointError: A file is unreadable, or not what it was when its header was read.
    """
    headers = {header.file: header for header in checkpoint.files}
    files = {file: list(own) for file, own in groupby(tensors, key=lambda tensor: tensor.ref.file)}
    names = _names(len(files))
    total, done = sum(tensor.length for tensor in tensors), 0
    for (file, own), name in zip(files.items(), names, strict=True):
        _require_unchanged(checkpoint.path, headers[file])
        with (directory / name).open("wb") as target:
            target.write(header_bytes([tensor.entry for tensor in own], form="pt"))
            for tensor in own:
                for start, stop in tensor.ranges:
                    for piece in tensor_bytes(checkpoint.path, tensor.ref, start=start, stop=stop):
                        target.write(piece.data)
                done += tensor.length
                progress("writing weights", done, total)
    if len(names) > 1:
        weight_map = {
            tensor.name: name for own, name in zip(files.values(), names, strict=True) for tensor in own
        }
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        replace_file(directory / INDEX_FILE, json_text(index))


def _names(count: int) -> list[str]:
    if count == 1:
        return [SINGLE_FILE]
    return [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


def _require_unchanged(directory: Path, header: SafetensorsHeader) -> None:
    if read_safetensors_header(directory, header.file) != header:
        raise CheckpointError(
            "A weight file changed while it was used.",
            where=directory / header.file,
            fix="let no other process write to the checkpoint, and start again",
        )
