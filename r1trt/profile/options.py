"""What can be asked of a profile, by name; imports nothing, since the command lists the names."""

from __future__ import annotations

from typing import Literal, get_args

Breakdown = Literal["layer_type", "layer", "operator", "part"]
BREAKDOWNS: tuple[Breakdown, ...] = get_args(Breakdown)
Metric = Literal["latency", "flops", "memory"]
METRICS: tuple[Metric, ...] = get_args(Metric)
