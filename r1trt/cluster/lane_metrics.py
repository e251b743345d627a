"""Measurements of several lanes as those of one model."""

from __future__ import annotations

import threading

from r1trt.serving import metrics as m


class LaneGauges:
    """Adds up the lanes' gauges, of which each lane knows its own.

    Args:
        sink: Where measurements go.
        lanes: How many there are.
    """

    def __init__(self, sink: m.MetricSink, lanes: int) -> None:
        self._sink, self._lock = sink, threading.Lock()
        self._values: list[dict[str, float]] = [{} for _ in range(lanes)]

    def set(self, lane: int, metric: m.Metric, value: float) -> None:
        """Sets a lane's gauge."""
        with self._lock:
            self._values[lane][metric.name] = value
            total = sum(values.get(metric.name, 0.0) for values in self._values)
            self._sink.set(metric, total / len(self._values) if metric is m.CACHE_USE else total)


class LaneMetrics:
    """What one lane measures.

    Args:
        sink: Where measurements go.
        gauges: Those of all lanes.
        lane: Which lane it is.
    """

    def __init__(self, sink: m.MetricSink, gauges: LaneGauges, lane: int) -> None:
        self._sink, self._gauges, self._lane = sink, gauges, lane

    def add(self, metric: m.Metric, amount: float = 1) -> None:
        """Counts."""
        self._sink.add(metric, amount)

    def set(self, metric: m.Metric, value: float) -> None:
        """Sets a gauge, of which the others have their parts."""
        self._gauges.set(self._lane, metric, value)

    def observe(self, metric: m.Metric, value: float) -> None:
        """Enters one observation into a histogram."""
        self._sink.observe(metric, value)

    def flush(self) -> None:
        """Makes everything visible."""
        self._sink.flush()
