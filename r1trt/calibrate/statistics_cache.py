"""Statistics on the disk: a calibration that was cut off goes on where it was, and none is measured twice.

A file is named by the hash of all that its numbers follow from: the graph, what tells the weights' contents
apart, the token ids of every chunk, the statistic, and the ONNX Runtime that computes it. It is this user's
own, and still not trusted: one that is damaged is measured again. Legend: N numbers of a statistic, S scales
that it was given.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from r1trt.artifacts.disk import replace_file
from r1trt.cache import cache_directory, forget_oldest
from r1trt.calibrate.text import TokenChunks
from r1trt.errors import ConfigError, PlanError, R1TrtError
from r1trt.files import SCALES_BYTES, bytes_of_file
from r1trt.lowerings.statistics import Statistic
from r1trt.passes.pipeline import measured_passes, run_passes

_FOLDER, _FILE = "calibration", "statistics.safetensors"
_SCHEMA = "1"
"""Another one where the arithmetic of a statistic has changed."""
_KEPT_BYTES = 256 << 20
_HASH = "sha256"
_PARTS = ("totals", "scales", "done")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What was measured of one value.

    Attributes:
        totals_N: Over the first `done` chunks; finite.
        scales_S: What the statistic was given.
        done: Chunks.
    """

    totals_N: NDArray[np.float64]
    scales_S: NDArray[np.float64]
    done: int


Entries = dict[str, Entry]
"""By the probe's name."""


class StatisticsFile:
    """The statistics of one kind of one model on one text.

    Args:
        path: Where they lie; None where nothing is kept.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def read(self) -> Entries:
        """What was measured before; nothing where the file is not what was written."""
        if self._path is None:
            return {}
        with suppress(R1TrtError, SafetensorError, ValueError, KeyError, TypeError, IndexError, OSError):
            content = bytes_of_file(self._path, limit=SCALES_BYTES, error=PlanError)
            entries = _entries(load(content))
            os.utime(self._path.parent)  # the longest unused go first
            return entries
        return {}

    def write(self, entries: Mapping[str, Entry]) -> None:
        """Keep all of them, where there is room: a calibration can do without."""
        if self._path is None:
            return
        tensors = {
            f"{name}|{part}": np.ascontiguousarray(array)
            for name, entry in entries.items()
            for part, array in zip(
                _PARTS, (entry.totals_N, entry.scales_S, np.array([entry.done], np.int64)), strict=True
            )
        }
        with suppress(R1TrtError, OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._path, save({**tensors, _HASH: _digest(tensors)}))

    def forget_others(self) -> None:
        """Remove the longest unused statistics beyond 256 MiB."""
        if self._path is not None:
            with suppress(OSError):
                forget_oldest(self._path.parents[1].iterdir(), _KEPT_BYTES)


class StatisticsCache:
    """The statistics of one model.

    Args:
        model: Exported graph.
        weights: What tells its weights' contents apart; None keeps nothing.
    """

    def __init__(self, model: ir.Model, weights: Sequence[str] | None) -> None:
        self._base: Path | None = None
        if weights is None:
            return
        with suppress(ConfigError):
            self._base = cache_directory() / _FOLDER
        self._digest = hashlib.sha256(f"{_SCHEMA} {onnxruntime.__version__}".encode())
        for mark in weights:
            self._digest.update(mark.encode() + b"\0")
        self._digest.update(ir.to_proto(run_passes(model, measured_passes())).SerializeToString())

    def file(self, statistic: Statistic, chunks: TokenChunks) -> StatisticsFile:
        """Where a statistic on a text is kept."""
        if self._base is None:
            return StatisticsFile(None)
        digest = self._digest.copy()
        digest.update(repr(statistic).encode())
        for chunk in chunks:
            digest.update(len(chunk).to_bytes(8, "little") + np.ascontiguousarray(chunk).tobytes())
        return StatisticsFile(self._base / digest.hexdigest()[:32] / _FILE)


def _entries(tensors: dict[str, NDArray[Any]]) -> Entries:
    """Raises ValueError, KeyError or IndexError for anything that `write` does not write."""
    found = tensors.pop(_HASH)
    if not np.array_equal(found, _digest(tensors)):
        raise ValueError("the file changed since it was written")
    names = {key.rpartition("|")[0] for key in tensors}
    entries = {
        name: Entry(
            totals_N=tensors[f"{name}|totals"].astype(np.float64),
            scales_S=tensors[f"{name}|scales"].astype(np.float64),
            done=int(tensors[f"{name}|done"][0]),
        )
        for name in names
    }
    if not all(entry.done >= 0 and np.isfinite(entry.totals_N).all() for entry in entries.values()):
        raise ValueError("not what a calibration measures")
    return entries


def _digest(tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name}\0{array.dtype}\0{array.shape}\0".encode() + array.tobytes())
    return np.frombuffer(digest.digest(), np.uint8)
