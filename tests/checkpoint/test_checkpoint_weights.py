from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import CONFIGS, WriteCheckpoint, arrays_of, safetensors_bytes, tensor_of
from safetensors.numpy import load_file

from r1trt.checkpoint import checkpoint_from_dir
from r1trt.checkpoint.safetensors_header import read_safetensors_header
from r1trt.checkpoint.weights import CHUNK_BYTES, tensors_are_equal
from r1trt.data_types import OF_SAFETENSORS
from r1trt.errors import CheckpointError

WEIGHT_TYPES = ("F32", "F16", "BF16")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.mark.parametrize("dtype", WEIGHT_TYPES)
def test_reads_what_the_safetensors_library_reads(write_checkpoint: WriteCheckpoint, dtype: str) -> None:
    numpy_type = OF_SAFETENSORS[dtype].numpy
    arrays = {name: array.astype(numpy_type) for name, array in arrays_of(CONFIGS["r1_asa"]).items()}
    directory = write_checkpoint(CONFIGS["r1_asa"], arrays)
    (directory / "model.safetensors").write_bytes(safetensors_bytes(arrays, dtype))
    checkpoint = checkpoint_from_dir(directory)
    for name, array in load_file(directory / "model.safetensors").items():
        read = tensor_of(checkpoint, name)
        assert read.dtype == numpy_type
        np.testing.assert_array_equal(read.view("u1"), array.view("u1"))


def large_checkpoint(write_checkpoint: WriteCheckpoint, changed: int | None = None) -> Path:
    """A head equal to its embedding, both longer than a chunk, but for one element of row `changed`."""
    config = {**CONFIGS["llama"], "vocab_size": CHUNK_BYTES // 32 + 100}
    arrays = arrays_of(config)
    arrays[HEAD] = arrays[EMBEDDING].copy()
    if changed is not None:
        arrays[HEAD][changed, 6] += 1
    return write_checkpoint(config, arrays)


@pytest.mark.parametrize("changed", [None, 0, CHUNK_BYTES // 32 + 7])
def test_a_difference_is_seen_in_every_chunk(write_checkpoint: WriteCheckpoint, changed: int | None) -> None:
    checkpoint = checkpoint_from_dir(large_checkpoint(write_checkpoint, changed))
    tensors = checkpoint.tensors
    assert tensors_are_equal(checkpoint.path, tensors[EMBEDDING], tensors[HEAD]) == (changed is None)
    assert not tensors_are_equal(checkpoint.path, tensors[EMBEDDING], tensors["model.norm.weight"])


@pytest.mark.parametrize("types", [("BF16", "F32"), ("F32", "F16"), ("F16", "BF16"), ("F32", "F64")])
@pytest.mark.parametrize("row", [None, 0, CHUNK_BYTES // 32 + 7])
def test_values_are_compared_across_types(tmp_path: Path, types: tuple[str, str], row: int | None) -> None:
    """Values that every one of the types has; another one in any chunk is seen."""
    values = np.resize(np.arange(-100, 100, dtype="<f4"), (CHUNK_BYTES // 32 + 100, 8))
    other = values.copy()
    if row is not None:
        other[row, 6] += 1
    refs = []
    for name, dtype, array in zip("ab", types, (values, other), strict=True):
        raw = {name: array.astype(OF_SAFETENSORS[dtype].numpy)}
        (tmp_path / f"{name}.safetensors").write_bytes(safetensors_bytes(raw, dtype))
        refs += read_safetensors_header(tmp_path, f"{name}.safetensors").tensors
    # FP64 is no type of weights.
    assert tensors_are_equal(tmp_path, *refs) == (row is None and "F64" not in types)


def test_file_cut_after_its_header_was_read(write_checkpoint: WriteCheckpoint) -> None:
    checkpoint = checkpoint_from_dir(write_checkpoint(CONFIGS["llama"]))
    last = max(checkpoint.tensors.values(), key=lambda ref: ref.offset)
    os.truncate(checkpoint.path / last.file, last.offset + last.length - 1)
    with pytest.raises(CheckpointError, match="shrank"):
        tensors_are_equal(checkpoint.path, last, last)
