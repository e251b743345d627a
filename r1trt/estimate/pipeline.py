"""A pipeline of stages, simulated: when each stage works, when it waits, and how long all of it takes.

Rows go through the stages in micro-batches, a call each. A micro-batch enters again, for its next token, when
its call has left the last stage and the front has chosen tokens from its logits; a stage works on one call at
a time. What a stage waits between its calls is the pipeline's bubble.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from dataclasses import dataclass

from r1trt.config.checks import require


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """What is simulated.

    Attributes:
        stage_seconds: Time of one micro-batch's call in each stage.
        transfer_seconds: Time from the end of a call in one stage until the next may begin with its result.
        front_seconds: Time from the end of a call in the last stage until the micro-batch enters the first
            one again: sampling, and the way there.
        cores: Stages that can work at the same time, where they share a machine; None for all of them.
        variation: Standard deviation of a call's time, as a share of its mean `stage_seconds`; each time is
            then drawn from a gamma distribution, the same ones in every simulation.
    """

    stage_seconds: tuple[float, ...]
    transfer_seconds: float = 0.0
    front_seconds: float = 0.0
    cores: int | None = None
    variation: float = 0.0

    def __post_init__(self) -> None:
        """Raises ConfigError for a pipeline without a stage, and for times that are none."""
        times = (*self.stage_seconds, self.transfer_seconds, self.front_seconds)
        require(bool(self.stage_seconds), "A pipeline has stages", found=0, expected="at least 1")
        require(self.variation >= 0, "A variation is too small", found=self.variation, expected="at least 0")
        require(min(times) >= 0, "A pipeline's times are too small", found=min(times), expected="at least 0")
        if self.cores is not None:
            require(self.cores >= 1, "A machine has cores", found=self.cores, expected="at least 1")


@dataclass(frozen=True, kw_only=True)
class PipelineRun:
    """What a simulation found.

    Attributes:
        seconds: From the first call's beginning to the last one's end.
        busy: Share of that time that each stage works.
        calls: Calls that left the last stage.
    """

    seconds: float
    busy: tuple[float, ...]
    calls: int

    @property
    def bubble(self) -> float:
        """Share of all stages' time that they wait."""
        return 1.0 - sum(self.busy) / len(self.busy)


def pipeline_run(pipeline: Pipeline, micro_batches: int, rounds: int = 1) -> PipelineRun:
    """Simulates calls from an empty pipeline to an empty one.

    Args:
        pipeline: The stages.
        micro_batches: Groups of rows that are under way at the same time, at most.
        rounds: Calls of each of them, one after the other: a token each in decode. 1 is what the chunks of
            prompts do, of which none waits for another to leave the pipeline.

    Raises:
        ConfigError: There is nothing to run.
    """
    require(micro_batches >= 1, "A pipeline runs micro-batches", found=micro_batches, expected="at least 1")
    require(rounds >= 1, "A pipeline runs rounds", found=rounds, expected="at least 1")
    simulation = _Simulation(pipeline, micro_batches, rounds)
    end = simulation.run()
    calls = micro_batches * rounds
    busy = tuple(seconds / end if end else 0.0 for seconds in simulation.worked)
    return PipelineRun(seconds=end, busy=busy, calls=calls)


class _Simulation:
    """Events in the order of their times. A call's turn is how many calls of its micro-batch went before."""

    def __init__(self, pipeline: Pipeline, micro_batches: int, rounds: int) -> None:
        self._pipeline, self._rounds = pipeline, rounds
        stages = len(pipeline.stage_seconds)
        self._waiting: list[deque[int]] = [deque() for _ in range(stages)]  # turns of calls, first come first
        self._waiting[0].extend([0] * micro_batches)
        self._works = [False] * stages
        self._free_cores = min(pipeline.cores or stages, stages)
        self._order = itertools.count()  # of events at the same time
        self._random = random.Random(0)  # simulations are the same every time
        self.worked = [0.0] * stages
        self._events: list[tuple[float, int, int, int, bool]] = []  # time, order, stage, turn, is an end

    def run(self) -> float:
        """Simulates all calls; returns when the last one ends."""
        now = 0.0
        self._start(now)
        while self._events:
            now, _, stage, turn, is_end = heapq.heappop(self._events)
            if is_end:
                self._works[stage] = False
                self._free_cores += 1
                self._pass_on(now, stage, turn)
            else:
                self._waiting[stage].append(turn)
            self._start(now)
        return now

    def _pass_on(self, now: float, stage: int, turn: int) -> None:
        if stage + 1 < len(self._works):
            self._at(now + self._pipeline.transfer_seconds, stage + 1, turn, is_end=False)
        elif turn + 1 < self._rounds:
            self._at(now + self._pipeline.front_seconds, 0, turn + 1, is_end=False)

    def _start(self, now: float) -> None:
        """Calls that are furthest get a core first: they free their rows soonest."""
        for stage in reversed(range(len(self._works))):
            if self._free_cores and self._waiting[stage] and not self._works[stage]:
                self._works[stage] = True
                self._free_cores -= 1
                seconds = self._drawn(self._pipeline.stage_seconds[stage])
                self.worked[stage] += seconds
                self._at(now + seconds, stage, self._waiting[stage].popleft(), is_end=True)

    def _drawn(self, mean: float) -> float:
        if not self._pipeline.variation:
            return mean
        square = self._pipeline.variation**2
        return self._random.gammavariate(1.0 / square, mean * square)

    def _at(self, time: float, stage: int, turn: int, *, is_end: bool) -> None:
        heapq.heappush(self._events, (time, next(self._order), stage, turn, is_end))


def seconds_of_round(pipeline: Pipeline, micro_batches: int, rounds: int = 16) -> float:
    """Time from one token of every row to the next, in a pipeline that has been running for a while.

    Args and Raises are those of `pipeline_run`; `rounds` are those that it is measured over.
    """
    later = pipeline_run(pipeline, micro_batches, rounds + 1).seconds
    return (later - pipeline_run(pipeline, micro_batches).seconds) / rounds


def steady_bubble(pipeline: Pipeline, micro_batches: int, rounds: int = 16) -> float:
    """Share of all stages' time that they wait, in a pipeline that has been running for a while."""
    seconds = pipeline.stage_seconds
    waited = seconds_of_round(pipeline, micro_batches, rounds)
    return 1.0 - micro_batches * sum(seconds) / (len(seconds) * waited)
