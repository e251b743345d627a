"""Times of calls on the GPU: CUDA events around the replay of a graph, medians over alternated rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from r1trt.plugin_checks.machine import clocks

Call = Callable[[], Any]

ROUNDS = 3
WARM_UP = 3
FEWEST, MOST = 10, 200
ROUND_S = 0.05  # of one contender
HOT_CALLS = 20  # of one graph, where the cache is left as it is
FLUSH_FACTOR = 2


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A way to do a row's work.

    Attributes:
        name: What the table calls it.
        make: Prepares the call; whatever it raises is why the contender is left out.
        same: Whether its output is the row's, to be compared with ours.
    """

    name: str
    make: Callable[[], Call]
    same: bool = True


class Prepared:
    """A contender that runs: captured in a graph if that is possible.

    Args:
        name: The contender's.
        call: What it does.
        hot: Whether the graph holds many calls that find the cache as the one before left it.
    """

    def __init__(self, name: str, call: Call, *, hot: bool) -> None:
        self.name, self.call = name, call
        self.calls = HOT_CALLS if hot else 1
        for _ in range(WARM_UP):
            self.output = call()
        torch.cuda.synchronize()
        self.graph: torch.cuda.CUDAGraph | None = None
        self.no_graph = ""
        try:
            self.graph = self._captured()
        except RuntimeError as error:
            self.no_graph = str(error).splitlines()[0]
        torch.cuda.synchronize()

    def _captured(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(self.calls):
                self.output = self.call()
        graph.replay()
        return graph

    def run(self) -> None:
        """Enqueues all calls."""
        if self.graph is not None:
            self.graph.replay()
            return
        for _ in range(self.calls):
            self.call()

    def sample_us(self, flush: torch.Tensor | None) -> float:
        """Microseconds of one call."""
        event: Any = torch.cuda.Event
        begin, end = event(enable_timing=True), event(enable_timing=True)
        if flush is not None:
            flush.zero_()  # also keeps the GPU busy while the rest is enqueued
        begin.record()
        self.run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e3 / self.calls


def flush_buffer() -> torch.Tensor:
    """Memory that does not fit the L2 cache; overwriting it empties the cache of all else."""
    size = FLUSH_FACTOR * torch.cuda.get_device_properties(0).L2_cache_size
    return torch.empty(size, dtype=torch.uint8, device="cuda")


def timed(contenders: Sequence[Prepared], *, hot: bool) -> dict[str, dict[str, Any]]:
    """Times contenders in turn, round after round.

    Returns:
        By name: `us` (median of all samples), `us_of_rounds`, `samples`, `graph`, `clocks` before and after.
    """
    flush = None if hot else flush_buffer()
    samples: dict[str, list[list[float]]] = {item.name: [] for item in contenders}
    before = clocks()
    for _ in range(ROUNDS):
        for item in contenders:
            first = item.sample_us(flush)
            count = max(FEWEST, min(MOST, int(ROUND_S * 1e6 / max(first * item.calls, 1))))
            samples[item.name].append([item.sample_us(flush) for _ in range(count)])
    seen = {"before": before, "after": clocks()}
    return {
        item.name: {**summary(samples[item.name]), **_method(item, hot), "clocks": seen}
        for item in contenders
    }


def summary(rounds: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Median of all samples, and of each round."""
    every = [sample for samples in rounds for sample in samples]
    return {
        "us": round(median(every), 3),
        "us_of_rounds": [round(median(samples), 3) for samples in rounds],
        "samples": len(every),
    }


def _method(item: Prepared, hot: bool) -> dict[str, Any]:
    method: dict[str, Any] = {"graph": item.graph is not None, "cache": "hot" if hot else "flushed"}
    return {**method, "no_graph": item.no_graph} if item.no_graph else method


def disagreement(ours: torch.Tensor, other: torch.Tensor) -> float:
    """Norm of the difference over the norm."""
    reference = ours.double()
    return float((other.double().reshape(reference.shape) - reference).norm() / reference.norm())
