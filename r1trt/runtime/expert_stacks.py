"""Expert stacks that an engine takes as inputs, read from the checkpoint's shards while it is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from r1trt.artifacts.build import BuildArtifact, BuildManifest
from r1trt.artifacts.experts import ExpertStack, ExternalExperts, ShardTensor
from r1trt.artifacts.export import ReadWeightFile
from r1trt.artifacts.manifest import MANIFEST_FILE
from r1trt.checkpoint.safetensors_header import SafetensorsHeader, TensorRef, read_safetensors_header
from r1trt.data_types import DATA_TYPES
from r1trt.errors import CheckpointError
from r1trt.files import open_file
from r1trt.graph.stacks import stack_rows
from r1trt.runtime.expert_source import StackArrays

_FIX = "put the file back that the engine was built from, or export and build again"


class BoundExperts:
    """The expert stacks of a build whose shards were compared with what it was built from.

    Args:
        build: A build with external experts.

    Raises:
        CheckpointError: A shard is missing or another one, or lacks a tensor, or has another one; names
            the file and the tensor.
    """

    def __init__(self, build: BuildArtifact) -> None:
        experts = build.manifest.external_experts
        assert experts is not None, "callers ask first"
        self._base = Path(experts.base_directory)
        self.stacks = experts.stacks
        headers = {file: _header(self._base, file, build) for file in _files(experts)}
        self._tensors = {
            file: {tensor.name: tensor for tensor in header.tensors} for file, header in headers.items()
        }
        for stack in experts.stacks:
            for tensor in stack.tensors:
                _require_tensor(tensor, self._tensors[tensor.file], self._base / tensor.file, stack)
        _require_files(headers, build.manifest, self._base)

    def rows(self, stack: ExpertStack) -> Iterator[npt.NDArray[Any]]:
        """Elements of one stack in order, some at a time.

        Raises:
            CheckpointError: A shard cannot be read.
        """
        return stack_rows(stack, self._base, self._tensors)

    def in_memory(self) -> StackArrays:
        """All stacks by name.

        Raises:
            CheckpointError: A shard cannot be read.
        """
        return {stack.name: self._array(stack) for stack in self.stacks}

    def _array(self, stack: ExpertStack) -> npt.NDArray[Any]:
        whole: npt.NDArray[Any] = np.empty(stack.shape, DATA_TYPES[stack.data_type].numpy)
        flat, start = whole.reshape(-1), 0
        for rows in self.rows(stack):
            flat[start : start + rows.size] = rows.reshape(-1)
            start += rows.size
        assert start == flat.size, "the parts were compared with what is listed"
        return whole


def _files(experts: ExternalExperts) -> list[str]:
    return sorted({tensor.file for stack in experts.stacks for tensor in stack.tensors})


def _header(base: Path, file: str, build: BuildArtifact) -> SafetensorsHeader:
    path = base / file
    if not path.is_file():
        raise CheckpointError(
            "A shard that holds experts of this engine is missing.",
            where=path,
            found="no such file",
            expected=f"a shard of the checkpoint that {build.path} was built from",
            fix=f"put it back, or write its directory into {build.path / MANIFEST_FILE} as "
            "external_experts.base_directory, with a model in parts into that of each part",
        )
    return read_safetensors_header(base, file)


def _require_tensor(
    listed: ShardTensor, tensors: Mapping[str, TensorRef], path: Path, stack: ExpertStack
) -> None:
    found = tensors.get(listed.tensor)
    expected = f"{listed.dtype} {list(listed.shape)}"
    if found is None or (found.dtype, found.shape) != (listed.dtype, listed.shape):
        raise CheckpointError(
            "A shard does not hold a tensor that the engine takes.",
            where=f"{path}, tensor {listed.tensor!r}, for input {stack.name!r}",
            found="no such tensor" if found is None else f"{found.dtype} {list(found.shape)}",
            expected=expected,
            fix=_FIX,
        )


def _require_files(headers: Mapping[str, SafetensorsHeader], manifest: BuildManifest, base: Path) -> None:
    built_from = {file.name: file for file in manifest.source.weights}
    for name, header in headers.items():
        if name not in built_from:
            raise CheckpointError(
                "Experts are read from a file that the engine was not built from.",
                where=base / name,
                expected=", ".join(built_from),
                fix=_FIX,
            )
        _require_file(header, built_from[name], base / name)


def _require_file(header: SafetensorsHeader, file: ReadWeightFile, path: Path) -> None:
    """Contents are read again only where the time of the last change is another one."""
    found, expected = header.header_sha256, file.header_sha256
    if found == expected and header.modified_ns != file.modified_ns and file.sha256 is not None:
        with open_file(path) as stream:
            found, expected = hashlib.file_digest(stream, "sha256").hexdigest(), file.sha256
    if found != expected:
        raise CheckpointError(
            "A shard changed since the engine was built.",
            where=path,
            found=f"SHA-256 {found}",
            expected=expected,
            fix=_FIX,
        )
