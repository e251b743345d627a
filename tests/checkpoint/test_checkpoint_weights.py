from __future__ import annotations

import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from checkpoint_files import CONFIGS, WriteCheckpoint, arrays_of, safetensors_bytes
from safetensors.numpy import load_file

from r1trt.checkpoint import checkpoint_from_dir, find_nonfinite, read_tensor
from r1trt.checkpoint.weights import CHUNK_BYTES
from r1trt.errors import CheckpointError

NUMPY = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16)}
DOWN = "model.layers.1.mlp.down_proj.weight"


def rewrite(directory: Path, arrays: dict[str, np.ndarray], dtype: str) -> None:
    (directory / "model.safetensors").write_bytes(safetensors_bytes(arrays, dtype))


@pytest.mark.parametrize("dtype", NUMPY)
def test_reads_what_the_safetensors_library_reads(write_checkpoint: WriteCheckpoint, dtype: str) -> None:
    arrays = {name: array.astype(NUMPY[dtype]) for name, array in arrays_of(CONFIGS["r1_asa"]).items()}
    directory = write_checkpoint(CONFIGS["r1_asa"], arrays)
    rewrite(directory, arrays, dtype)
    checkpoint = checkpoint_from_dir(directory)
    for name, array in load_file(directory / "model.safetensors").items():
        read = read_tensor(checkpoint, name)
        assert read.dtype == NUMPY[dtype]
        np.testing.assert_array_equal(read.view("u1"), array.view("u1"))


@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
def test_nonfinite_weights_are_found(write_checkpoint: WriteCheckpoint, dtype: str, value: float) -> None:
    arrays = {name: array.astype(NUMPY[dtype]) for name, array in arrays_of(CONFIGS["llama"]).items()}
    arrays[DOWN][2, 5] = arrays[DOWN][7, 1] = value
    arrays["model.norm.weight"][3] = value
    directory = write_checkpoint(CONFIGS["llama"], arrays)
    rewrite(directory, arrays, dtype)
    with pytest.raises(CheckpointError, match=r"tensors \(2\)") as caught:
        find_nonfinite(checkpoint_from_dir(directory))
    assert f"{DOWN}: 2, the first at [2, 5]" in str(caught.value)
    assert "model.norm.weight: 1, the first at [3]" in str(caught.value)


@pytest.mark.parametrize("dtype", NUMPY)
def test_largest_finite_numbers_pass(write_checkpoint: WriteCheckpoint, dtype: str) -> None:
    arrays = {name: array.astype(NUMPY[dtype]) for name, array in arrays_of(CONFIGS["llama"]).items()}
    limits = ml_dtypes.finfo(NUMPY[dtype])
    arrays[DOWN][0, :3] = [limits.max, limits.min, limits.smallest_subnormal]
    directory = write_checkpoint(CONFIGS["llama"], arrays)
    rewrite(directory, arrays, dtype)
    seen: list[tuple[str, int, int]] = []
    find_nonfinite(checkpoint_from_dir(directory), lambda *step: seen.append(step))
    assert {name for name, _, _ in seen} == set(arrays)
    assert seen[-1][1] == seen[-1][2] == sum(array.nbytes for array in arrays.values())


def test_index_of_a_weight_beyond_the_first_chunk(write_checkpoint: WriteCheckpoint) -> None:
    config = {**CONFIGS["llama"], "vocab_size": CHUNK_BYTES // 32 + 100}
    arrays = arrays_of(config)
    row = CHUNK_BYTES // 32 + 7
    arrays["model.embed_tokens.weight"][row, 6] = np.nan
    checkpoint = checkpoint_from_dir(write_checkpoint(config, arrays))
    with pytest.raises(CheckpointError, match=rf"embed_tokens.weight: 1, the first at \[{row}, 6\]"):
        find_nonfinite(checkpoint)
    np.testing.assert_array_equal(read_tensor(checkpoint, "lm_head.weight"), arrays["lm_head.weight"])


def test_unknown_tensor_and_file_cut_later(write_checkpoint: WriteCheckpoint) -> None:
    directory = write_checkpoint(CONFIGS["llama"])
    checkpoint = checkpoint_from_dir(directory)
    with pytest.raises(CheckpointError, match="no such tensor"):
        read_tensor(checkpoint, "model.layers.9")
    last = max(checkpoint.tensors.values(), key=lambda ref: ref.offset)
    os.truncate(directory / "model.safetensors", last.offset + last.length - 1)
    with pytest.raises(CheckpointError, match="shrank"):
        read_tensor(checkpoint, last.name)
    with pytest.raises(CheckpointError, match="shrank"):
        find_nonfinite(checkpoint)
