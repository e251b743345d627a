"""Optimization profiles: the input shapes that an engine accepts, and those it is tuned for.

Legend: B batch, S tokens of one call, C cache capacity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from r1trt.artifacts.profiles import InputRange, OptimizationProfile
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
