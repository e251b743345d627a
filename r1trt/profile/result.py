"""A profile: rows of each phase, what they add up to, and under which conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r1trt.estimate.gpus import Device
from r1trt.estimate.times import OPERATIONS_OF_MAC
from r1trt.profile.measured import Measured, MeasuredPhase
from r1trt.profile.options import Breakdown, Metric
from r1trt.profile.requests import Phase, RequestBatch
from r1trt.profile.rows import Row

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class PhaseProfile:
    """One phase.

    Attributes:
        name: "prefill" or "decode".
        calls: Calls that it takes.
        tokens: Tokens that they compute, padding included.
        rows: In the order that they are shown.
        total: All rows together.
        parts: The finest rows, for pictures.
        peak_bytes: Weights, the whole KV cache, and what is alive between layers at its most.
        measured: What was measured.
    """

    name: Phase
    calls: int
    tokens: int
    rows: tuple[Row, ...]
    total: Row
    parts: tuple[Row, ...]
    peak_bytes: int
    measured: MeasuredPhase | None = None

    @property
    def parts_by_layer_type(self) -> Mapping[str, Sequence[Row]]:
        """The finest rows by kind of layer."""
        found: dict[str, list[Row]] = {}
        for row in self.parts:
            found.setdefault(row.layer_type, []).append(row)
        return found

    @property
    def bottleneck(self) -> Row:
        """The row that takes most of the time."""
        return max(self.rows, key=lambda row: row.measured_seconds or row.seconds)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A whole profile.

    Attributes:
        model: The model's name.
        kind: What it was read from.
        architecture: Hugging Face's class name.
        num_layers: Decoder layers.
        precision: Precision of its plan.
        device: Whose roofline.
        requests: What was answered.
        cache_tokens: Rows of the KV cache, in tokens.
        breakdown: What a row is.
        metrics: What is shown of it.
        phases: One or two.
        measured: The measurement; None where there is none.
        notes: What a reader of the figures has to know.
    """

    model: str
    kind: str
    architecture: str
    num_layers: int
    precision: str
    device: Device
    requests: RequestBatch
    cache_tokens: int
    breakdown: Breakdown
    metrics: tuple[Metric, ...]
    phases: tuple[PhaseProfile, ...]
    measured: Measured | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values (docs/profiling.md)."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "kind": self.kind,
            "architecture": self.architecture,
            "num_layers": self.num_layers,
            "precision": self.precision,
            "device": _device_json(self.device),
            "requests": {
                "batch": self.requests.size,
                "prompt_tokens": list(self.requests.prompt_tokens),
                "new_tokens": self.requests.new_tokens,
                "useful_share": self.requests.useful_share,
            },
            "cache_tokens": self.cache_tokens,
            "breakdown": self.breakdown,
            "metrics": list(self.metrics),
            "measured": None if self.measured is None else _measured_json(self.measured),
            "notes": list(self.notes),
            "phases": [self._phase_json(phase) for phase in self.phases],
        }

    def _phase_json(self, phase: PhaseProfile) -> dict[str, Any]:
        result: dict[str, Any] = {
            "name": phase.name,
            "calls": phase.calls,
            "tokens": phase.tokens,
            "total": self._row_json(phase.total, phase.total),
            "rows": [self._row_json(row, phase.total) for row in phase.rows],
        }
        if "memory" in self.metrics:
            result["peak_bytes"] = phase.peak_bytes
        if phase.measured is not None:
            result["measured_seconds"] = phase.measured.seconds
            result["profiled_seconds"] = phase.measured.profiled_seconds
        return result

    def _row_json(self, row: Row, total: Row) -> dict[str, Any]:
        made = {"latency": _latency_json, "flops": _flops_json, "memory": _memory_json}
        found: dict[str, Any] = {"name": row.name, "includes": sorted(row.includes)}
        for metric in self.metrics:
            found |= made[metric](row, total)
        return found


def _device_json(device: Device) -> Mapping[str, Any]:
    return {
        "name": device.name,
        "title": device.title,
        "bandwidth": device.reachable_bandwidth,
        "operations": {kind: device.rate(kind) for kind in device.operations},
    }


def _measured_json(measured: Measured) -> Mapping[str, Any]:
    return {
        "backend": measured.backend,
        "where": measured.where,
        "others_share": measured.others_share,
    }


def _latency_json(row: Row, total: Row) -> Mapping[str, Any]:
    return {
        "seconds": row.seconds,
        "share": row.seconds / total.seconds if total.seconds else 0.0,
        "bound": row.bound,
        "compute_bound_seconds": row.compute_bound_seconds,
        "measured_seconds": row.measured_seconds,
        "roofline_share": row.roofline_share,
    }


def _flops_json(row: Row, total: Row) -> Mapping[str, Any]:
    return {
        "flops": row.flops,
        "flops_by_type": {kind: OPERATIONS_OF_MAC * macs for kind, macs in row.cost.macs.items()},
        "reference_flops": row.reference_flops,
        "intensity": row.intensity,
    }


def _memory_json(row: Row, total: Row) -> Mapping[str, Any]:
    return {
        "read_bytes": sum(row.cost.read_bytes.values()),
        "written_bytes": sum(row.cost.written_bytes.values()),
        "weight_bytes": row.weight_bytes,
        "kv_bytes": row.kv_bytes,
        "live_bytes": row.live_bytes,
    }
