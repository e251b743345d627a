from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from checkpoint_files import file_bytes
from safetensors.numpy import save_file

from r1trt.checkpoint import read_safetensors_header
from r1trt.errors import CheckpointError

FILE = "model.safetensors"


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_agrees_with_the_safetensors_library(tmp_path: Path) -> None:
    arrays = {
        "b": np.arange(6, dtype="<f4").reshape(2, 3),
        "a": np.arange(4, dtype="<f2"),
        "scalar": np.array(2.5, dtype="<f4"),
        "empty": np.zeros((0, 3), dtype="<f4"),
        "bf16": np.arange(5).astype(ml_dtypes.bfloat16),
    }
    save_file(arrays, tmp_path / FILE, metadata={"format": "pt"})
    data = (tmp_path / FILE).read_bytes()
    header = read_safetensors_header(tmp_path, FILE)
    assert {tensor.name for tensor in header.tensors} == set(arrays)
    for tensor in header.tensors:
        array = arrays[tensor.name]
        assert tensor.shape == array.shape
        assert data[tensor.offset : tensor.offset + tensor.length] == array.tobytes()
    assert header.file_bytes == len(data)
    text_end = 8 + int.from_bytes(data[:8], "little")
    assert header.header_sha256 == hashlib.sha256(data[:text_end]).hexdigest()


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "truncated"),
    "cut length": (b"\x01\x00", "truncated"),
    "cut header": (file_bytes({"a": entry([1], 0, 4)}, bytes(4))[:20], "truncated"),
    "cut data": (file_bytes({"a": entry([2], 0, 8)}, bytes(4)), "truncated"),
    "oversized header": ((100_000_001).to_bytes(8, "little") + b"{}", "header is too long"),
    "enormous header": (b"\xff" * 8 + b"{}", "header is too long"),
    "not json": (file_bytes(b"{nonsense"), "invalid JSON"),
    "not utf-8": (file_bytes(b'{"\xff": 1}'), "invalid JSON"),
    "deep nesting": (file_bytes(b'{"a":' + b"[" * 200_000), "invalid JSON"),
    "huge number": (file_bytes(b'{"a":' + b"9" * 10_000 + b"}"), "invalid JSON"),
    "nan constant": (file_bytes(b'{"a": NaN}'), "invalid JSON"),
    "pickle": (file_bytes(b"\x80\x04\x95stuff"), "not a safetensors file"),
    "an array": (file_bytes(b"[]"), "not a safetensors file"),
    "duplicate name": (file_bytes(b'{"a":1,"a":2}'), "invalid JSON"),
    "metadata not strings": (file_bytes({"__metadata__": {"a": 1}}), "metadata"),
    "entry not an object": (file_bytes({"a": 3}), "entry is malformed"),
    "entry without shape": (
        file_bytes({"a": {"dtype": "F32", "data_offsets": [0, 4]}}),
        "entry is malformed",
    ),
    "unknown dtype": (file_bytes({"a": entry([1], 0, 4, "F33")}, bytes(4)), "unknown dtype"),
    "dtype not a string": (file_bytes({"a": entry([1], 0, 4, ["F32"])}, bytes(4)), "unknown dtype"),  # type: ignore[arg-type]
    "negative size": (file_bytes({"a": entry([-1, -1], 0, 4)}, bytes(4)), "invalid shape"),
    "bool size": (file_bytes({"a": entry([True], 0, 4)}, bytes(4)), "invalid shape"),
    "fractional size": (file_bytes({"a": entry([1.0], 0, 4)}, bytes(4)), "invalid shape"),  # type: ignore[list-item]
    "absurd size": (file_bytes({"a": entry([1 << 60, 0], 0, 0)}), "invalid shape"),
    "absurd rank": (file_bytes({"a": entry([1] * 1000, 0, 4)}, bytes(4)), "invalid shape"),
    "negative offset": (file_bytes({"a": entry([1], -4, 0)}, bytes(4)), "invalid offsets"),
    "one offset": (file_bytes({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}), "invalid offsets"),
    "backward offsets": (file_bytes({"a": entry([1], 4, 0)}, bytes(4)), "contradicts its shape"),
    "length and shape": (file_bytes({"a": entry([2], 0, 4)}, bytes(4)), "contradicts its shape"),
    "overlap": (file_bytes({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)), "overlap"),
    "same place": (file_bytes({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, bytes(4)), "overlap"),
    "hole": (file_bytes({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)), "hole"),
    "hole at the start": (file_bytes({"a": entry([1], 4, 8)}, bytes(8)), "hole"),
    "left over": (file_bytes({"a": entry([1], 0, 4)}, bytes(5)), "no tensor uses"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_damaged_file_is_refused_with_place_and_expectation(tmp_path: Path, case: str) -> None:
    content, message = BAD_FILES[case]
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_safetensors_header(tmp_path, FILE)
    assert FILE in caught.value.details["where"]
    assert caught.value.details["expected"]


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = file_bytes({"a": entry([2], 0, 8), "b": entry([1], 8, 12)}, bytes(12))
    for length in range(len(whole)):
        (tmp_path / FILE).write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_safetensors_header(tmp_path, FILE)


def test_named_pipe_and_directory_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE)
    (tmp_path / "folder.safetensors").mkdir()
    for name in (FILE, "folder.safetensors"):
        with pytest.raises(CheckpointError, match="not a regular file"):
            read_safetensors_header(tmp_path, name)
