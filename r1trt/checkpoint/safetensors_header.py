"""Reads the header of a .safetensors file, none of its data; every field is checked before it is used."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from r1trt.data_types import OF_SAFETENSORS
from r1trt.errors import CheckpointError
from r1trt.files import HEADER_BYTES, open_file, require_no_pointer
from r1trt.strict_json import json_object_from_bytes

MAX_RANK = 32
MAX_DIMENSION = 1 << 48
LENGTH_BYTES = 8
_POINTER_BYTES = 200
DOWNLOAD_AGAIN = "download the file again, and compare its size and SHA-256 with the publisher's"


@dataclass(frozen=True, kw_only=True)
class TensorRef:
    """Where a tensor's bytes are.

    Attributes:
        name: The tensor's name in the checkpoint.
        file: POSIX path of its file, relative to the checkpoint's directory.
        offset: Absolute offset in the file, in bytes.
        length: Bytes; always the shape's product times the element's size.
        dtype: safetensors' name: "F32", "BF16", "F16", "F8_E4M3", ...
        shape: Dimensions; empty for a scalar.
    """

    name: str
    file: str
    offset: int
    length: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class SafetensorsHeader:
    """One file's checked header.

    Attributes:
        file: POSIX path relative to the checkpoint's directory.
        file_bytes: Size of the whole file.
        header_sha256: SHA-256 of the length field and the header, in hex.
        modified_ns: When the file was modified last, in nanoseconds since 1970.
        is_link: The file is a symbolic link.
        tensors: References in the order of their offsets.
    """

    file: str
    file_bytes: int
    header_sha256: str
    modified_ns: int
    is_link: bool
    tensors: tuple[TensorRef, ...]


def read_safetensors_header(directory: Path, file: str) -> SafetensorsHeader:
    """Reads and checks the header of one .safetensors file.

    Args:
        directory: The checkpoint's directory.
        file: POSIX path relative to it.

    Returns:
        The header; its tensors cover the file's data without overlap or hole.

    Raises:
        CheckpointError: The file is unreadable, truncated, or its header breaks a rule of the format.
    """
    path = directory / file
    with open_file(path) as stream:
        status = os.fstat(stream.fileno())
        size = status.st_size
        try:
            head, text = _header_bytes(stream, size, path)
        except OSError as error:
            raise CheckpointError("The file cannot be read.", where=path, found=error.strerror) from error
    data_start = LENGTH_BYTES + len(text)
    entries = json_object_from_bytes(text, f"{path} (header)")
    _check_metadata(entries.pop("__metadata__", {}), path)
    tensors = [_tensor_ref(name, entry, file, data_start, path) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.length))
    _check_coverage(tensors, data_start, size, path)
    return SafetensorsHeader(
        file=file,
        file_bytes=size,
        header_sha256=hashlib.sha256(head + text).hexdigest(),
        modified_ns=status.st_mtime_ns,
        is_link=path.is_symlink(),
        tensors=tuple(tensors),
    )


def _refuse(message: str, where: object, found: object, expected: object) -> NoReturn:
    raise CheckpointError(message, where=where, found=found, expected=expected, fix=DOWNLOAD_AGAIN)


def _header_bytes(stream: BinaryIO, size: int, path: Path) -> tuple[bytes, bytes]:
    """Returns the 8 bytes of the length field and the header's bytes."""
    head = stream.read(LENGTH_BYTES)
    if len(head) < LENGTH_BYTES:
        _refuse(
            "safetensors file is truncated", path, f"{size} bytes", "at least 8 bytes: the header's length"
        )
    length = int.from_bytes(head, "little")
    if length > size - LENGTH_BYTES:
        require_no_pointer(head + stream.read(_POINTER_BYTES), path, CheckpointError)
    if length > HEADER_BYTES:
        _refuse("safetensors header is too long", path, f"{length} bytes", f"at most {HEADER_BYTES}")
    if length > size - LENGTH_BYTES:
        _refuse("safetensors file is truncated", path, f"{size} bytes", f"a header of {length} bytes")
    text = stream.read(length)
    if len(text) < length:
        _refuse("safetensors file shrank while it was read", path, f"{len(text)} bytes", f"{length} bytes")
    if not text.startswith(b"{"):
        _refuse("not a safetensors file", path, f"a header that starts with {text[:8]!r}", "a header: {...}")
    return head, text


def _check_metadata(metadata: object, path: Path) -> None:
    is_table = isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    if not is_table:
        _refuse("safetensors metadata is malformed", path, repr(metadata)[:200], "an object of strings")


def _is_size(value: object, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= limit


def _tensor_ref(name: str, entry: Any, file: str, data_start: int, path: Path) -> TensorRef:
    where = f"{path}, tensor {name[:200]!r}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        _refuse("safetensors entry is malformed", where, repr(entry)[:200], "dtype, shape, data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in OF_SAFETENSORS:
        _refuse("tensor has an unknown dtype", where, repr(dtype)[:200], ", ".join(OF_SAFETENSORS))
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_RANK
        or not all(_is_size(n, MAX_DIMENSION) for n in shape)
    ):
        _refuse("tensor has an invalid shape", where, repr(shape)[:200], "a list of sizes >= 0")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(n, 1 << 62) for n in offsets):
        _refuse("tensor has invalid offsets", where, repr(offsets)[:200], "[begin, end] in bytes")
    begin, end = offsets
    length = math.prod(shape) * OF_SAFETENSORS[dtype].bytes
    if end - begin != length:
        found = f"offsets {begin} to {end}: {end - begin} bytes"
        _refuse("tensor's length contradicts its shape", where, found, f"{dtype}{shape}: {length} bytes")
    return TensorRef(
        name=name, file=file, offset=data_start + begin, length=length, dtype=dtype, shape=tuple(shape)
    )


def _check_coverage(tensors: list[TensorRef], data_start: int, size: int, path: Path) -> None:
    """Refuses overlaps, holes, and data that is missing or left over; `tensors` are in offset order."""
    position, previous = data_start, "the header"
    for tensor in tensors:
        if tensor.offset != position:
            problem = "overlap" if tensor.offset < position else "leave a hole"
            found = (
                f"{previous} ends at byte {position}, {tensor.name[:200]!r} begins at byte {tensor.offset}"
            )
            _refuse(f"tensors {problem}", path, found, "each tensor to begin where the one before it ends")
        position, previous = tensor.offset + tensor.length, repr(tensor.name[:200])
    if position > size:
        _refuse("safetensors file is truncated", path, f"{size} bytes", f"{position} bytes")
    if position < size:
        _refuse("safetensors file has bytes that no tensor uses", path, f"{size} bytes", f"{position} bytes")
