"""Optimization profiles: the input shapes that an engine accepts, and those it is tuned for.

Legend: B batch, S tokens of one call, C cache capacity.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from r1trt.errors import BuildError, ConfigError


@dataclass(frozen=True, kw_only=True)
class BuildLimits:
    """What an engine accepts at most.

    Attributes:
        max_batch_size: Rows of a call.
        max_input_len: Tokens of a call, padding included.
        capacity: Tokens of the KV cache; None for a graph without one.
    """

    max_batch_size: int
    max_input_len: int
    capacity: int | None

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_input_len"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is below 1.", found=getattr(self, name))
        if self.capacity is not None and self.capacity < self.max_input_len:
            raise ConfigError(
                "A call cannot have more tokens than the KV cache holds.",
                found=f"max_input_len {self.max_input_len}, capacity {self.capacity}",
                expected="max_input_len <= capacity",
                fix=f"use --max-input-len {self.capacity}, or a larger --max-seq-len",
            )


@dataclass(frozen=True, kw_only=True)
class InputRange:
    """Shapes of one input: smallest, tuned for, largest."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    def __post_init__(self) -> None:
        # The builder takes an inverted range without a word and then says that there is no profile.
        if not len(self.min) == len(self.opt) == len(self.max) or not all(
            1 <= low <= tuned <= high for low, tuned, high in zip(self.min, self.opt, self.max, strict=True)
        ):
            raise ConfigError(
                "An input range is not ordered.",
                found=f"min {self.min}, opt {self.opt}, max {self.max}",
                expected="1 <= min <= opt <= max in every dimension",
            )


@dataclass(frozen=True, kw_only=True)
class OptimizationProfile:
    """One way of calling an engine.

    Attributes:
        name: "prefill" or "decode".
        inputs: Range of every graph input.
    """

    name: str
    inputs: Mapping[str, InputRange]


def profiles_from_graph(graph: ir.Graph, limits: BuildLimits) -> list[OptimizationProfile]:
    """The profiles of a graph with the symbolic sizes B and S.

    Prefill comes first: a call with S = 1 fits both, and a runtime that wants decode kernels asks for them. A
    graph without a cache scores whole prompts and has no decode profile.

    Raises:
        BuildError: An input has a size that is neither static nor B or S.
    """
    batch, tokens = limits.max_batch_size, limits.max_input_len
    profiles = [_profile("prefill", graph.inputs, [(1, 1), (1, tokens), (batch, tokens)])]
    if limits.capacity is not None:
        profiles.append(_profile("decode", graph.inputs, [(1, 1), (batch, 1), (batch, 1)]))
    return profiles


def _profile(name: str, inputs: Sequence[ir.Value], points: Sequence[tuple[int, int]]) -> OptimizationProfile:
    ranges = {}
    for value in inputs:
        low, tuned, high = (_dims_at(value, batch, tokens) for batch, tokens in points)
        ranges[str(value.name)] = InputRange(min=low, opt=tuned, max=high)
    return OptimizationProfile(name=name, inputs=ranges)


def _dims_at(value: ir.Value, batch: int, tokens: int) -> tuple[int, ...]:
    sizes = {"B": batch, "S": tokens}
    dims = []
    for size in value.shape if value.shape is not None else [None]:
        known = size if isinstance(size, int) else sizes.get(str(getattr(size, "value", None)))
        if known is None:
            raise BuildError(
                "An input has a size that no profile covers.",
                where=f"input '{value.name}'",
                found=value.shape,
                expected="static sizes, B and S",
            )
        dims.append(known)
    return tuple(dims)


def save_profiles(profiles: Sequence[OptimizationProfile], path: Path) -> None:
    """Write profiles as JSON."""
    document = [asdict(profile) for profile in profiles]
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def load_profiles(path: Path) -> list[OptimizationProfile]:
    """Read what `save_profiles` wrote.

    Raises:
        BuildError: The file is missing or malformed.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, list) or not document:
            raise ValueError("no profiles in it")
        return [_profile_from_json(item) for item in document]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BuildError(
            "The profiles cannot be read.", where=path, found=error, fix="build again"
        ) from error


def _profile_from_json(item: Mapping[str, Any]) -> OptimizationProfile:
    inputs = {
        str(name): InputRange(**{key: tuple(map(int, entry[key])) for key in ("min", "opt", "max")})
        for name, entry in item["inputs"].items()
    }
    return OptimizationProfile(name=str(item["name"]), inputs=inputs)
