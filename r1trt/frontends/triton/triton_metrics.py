"""Measurements on their way to Triton's metrics endpoint."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import triton_python_backend_utils as triton

from r1trt.serving.metrics import ALL_METRICS, Metric

# Every update is a message to the server's process, so counts of single tokens are gathered first.
_INTERVAL_S = 0.5


class TritonMetrics:
    """Gathers measurements and hands them over twice a second, and whenever the scheduler is idle.

    Args:
        labels: What the numbers belong to.
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        kinds = {
            "counter": triton.MetricFamily.COUNTER,
            "gauge": triton.MetricFamily.GAUGE,
            "histogram": triton.MetricFamily.HISTOGRAM,
        }
        self._families = [
            triton.MetricFamily(name=metric.name, description=metric.description, kind=kinds[metric.kind])
            for metric in ALL_METRICS
        ]
        self._metrics: dict[str, Any] = {}
        for metric, family in zip(ALL_METRICS, self._families, strict=True):
            buckets = {"buckets": list(metric.buckets)} if metric.buckets else {}
            self._metrics[metric.name] = family.Metric(labels=dict(labels), **buckets)
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._gauges: dict[str, float] = {}
        self._sent_gauges: dict[str, float] = {}
        self._flushed_at = 0.0

    def add(self, metric: Metric, amount: float = 1) -> None:
        """Counts."""
        with self._lock:
            self._counts[metric.name] += int(amount)

    def set(self, metric: Metric, value: float) -> None:
        """Sets a gauge."""
        with self._lock:
            self._gauges[metric.name] = value
        if time.monotonic() - self._flushed_at > _INTERVAL_S:
            self.flush()

    def observe(self, metric: Metric, value: float) -> None:
        """Enters one observation into a histogram."""
        self._metrics[metric.name].observe(value)

    def flush(self) -> None:
        """Hands over what was gathered."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
            gauges = {
                name: value for name, value in self._gauges.items() if self._sent_gauges.get(name) != value
            }
            self._sent_gauges.update(gauges)
            self._flushed_at = time.monotonic()
        for name, amount in counts.items():
            self._metrics[name].increment(amount)
        for name, value in gauges.items():
            self._metrics[name].set(value)

    def close(self) -> None:
        """Hands over the rest, and lets go of what Triton made; nothing may be measured afterwards.

        Left to the end of the process, Triton's objects crash it: what they are sent through is gone by then.
        """
        self.flush()
        self._metrics.clear()
        self._families.clear()
