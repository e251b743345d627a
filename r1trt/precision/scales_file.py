"""Long lists of scales: a safetensors file of FP32 beside the plan's YAML, which names it and its hash."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from r1trt.artifacts.disk import replace_file, sha256_of_file
from r1trt.errors import PlanError
from r1trt.files import PLAN_BYTES, SCALES_BYTES, bytes_of_file
from r1trt.precision.plan import PrecisionPlan

# Longer lists go into the file: 16 of them are about two lines of YAML.
INLINE_SCALES = 16
LISTS = ("weight_scale", "down_scale")


@dataclass(frozen=True, kw_only=True)
class ScalesFile:
    """A file of scales.

    Attributes:
        file: Its name, beside the plan.
        sha256: Hash of its contents, in hex.
        scales: Its lists by `<layer>.<scale>`.
    """

    file: str
    sha256: str
    scales: Mapping[str, tuple[float, ...]]


def short_float(value: float | np.floating[Any]) -> float:
    """The shortest decimal that reads back as the same FP32 number."""
    return float(str(np.float32(value)))


def write_scales(plan: PrecisionPlan, plan_file: Path) -> ScalesFile | None:
    """Write the long lists of a plan beside its file; None, and no file, where it has none.

    An earlier plan's scales of other contents stay what they are, for it is whole until it is replaced.
    """
    scales = {
        f"{key}.{name}": values
        for key, layer in plan.layers.items()
        for name in LISTS
        if isinstance(values := getattr(layer, name), tuple) and len(values) > INLINE_SCALES
    }
    if not scales:
        return None
    content = save({name: np.asarray(values, np.float32) for name, values in scales.items()})
    sha256 = hashlib.sha256(content).hexdigest()
    path = _free_path(plan_file, sha256)
    replace_file(path, content)
    return ScalesFile(file=path.name, sha256=sha256, scales=scales)


def _free_path(plan: Path, sha256: str) -> Path:
    """`precision.scales.safetensors` beside `precision.yaml`; a name with the hash where that is taken."""
    path = plan.with_name(f"{plan.stem}.scales.safetensors")
    if not path.exists() or sha256_of_file(path) == sha256:
        return path
    return plan.with_name(f"{plan.stem}.scales-{sha256[:16]}.safetensors")


def remove_other_scales(plan: Path, kept: str | None) -> None:
    """Remove scales that lay beside a plan's file before, unless some plan there still names them.

    Args:
        plan: The plan's file.
        kept: Name of its scales' file; None where it has none.
    """
    start = glob.escape(f"{plan.stem}.scales")
    others = [path for end in ("", "-*") for path in plan.parent.glob(f"{start}{end}.safetensors")]
    plans = [path for end in ("yaml", "yml") for path in plan.parent.glob(f"*.{end}")]
    for path in others:
        if path.name != kept and not any(_may_name(other, path.name) for other in plans):
            path.unlink(missing_ok=True)


def _may_name(plan: Path, scales: str) -> bool:
    """Whether a plan's file names scales; what cannot be read may."""
    try:
        return scales.encode() in bytes_of_file(plan, limit=PLAN_BYTES, error=PlanError)
    except PlanError:
        return True


def read_scales(directory: Path, name: str, sha256: str) -> dict[str, tuple[float, ...]]:
    """Read a file of scales.

    Raises:
        ValueError: The file is not a plain file of `directory`, has another hash, or holds anything but
            lists of finite FP32 numbers above 0.
    """
    path = directory / name
    if Path(name).name != name or not path.is_file():
        raise ValueError(f"names '{name}', which is not a file beside the plan; copy it there")
    try:
        content = bytes_of_file(path, limit=SCALES_BYTES, error=PlanError)
    except PlanError as error:
        raise ValueError(f"names '{name}', which cannot be read: {error.details['found']}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"names '{name}' with SHA-256 {sha256}, but the file has another; copy both again")
    return {key: _checked(key, values) for key, values in _tensors(name, content).items()}


def _tensors(name: str, content: bytes) -> dict[str, NDArray[Any]]:
    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"names '{name}', which is not a safetensors file of FP32: {error}") from error


def _checked(key: str, values: NDArray[Any]) -> tuple[float, ...]:
    if values.dtype != np.float32 or values.ndim != 1 or not values.size:
        raise ValueError(f"holds '{key}' as {values.dtype} {values.shape}, expected a list of FP32 numbers")
    if not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"holds '{key}', where not all scales are finite and above 0")
    return tuple(map(short_float, values))
