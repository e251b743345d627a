"""Requests in lanes: each lane has a scheduler and rows of its own, and is a micro-batch of the pipeline.

While one lane's call is in the second stage, another lane's is in the first. The schedulers know nothing of
each other; a request goes to the lane with most rows that are free.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from r1trt.cluster.lane_metrics import LaneGauges, LaneMetrics
from r1trt.cluster.session import ClusterSession
from r1trt.cluster.stages import Stages
from r1trt.config.checks import require
from r1trt.serving.config import SchedulerConfig
from r1trt.serving.metrics import MetricSink
from r1trt.serving.request import Client, GenerationRequest, RequestEvent
from r1trt.serving.scheduler import Scheduler
from r1trt.serving.scheduler_thread import SchedulerThread
from r1trt.tokenizer.text_tokenizer import TextTokenizer


class Lanes:
    """Takes requests from any thread, like one scheduler's thread.

    Args:
        stages: The stages.
        tokenizer: The model's tokenizer.
        lanes: How many; as many as stages keep all of these busy.
        config: Limits of each lane.
        metrics: Where measurements go.

    Raises:
        ConfigError: There are fewer rows than lanes, or the model has no cache.
    """

    def __init__(
        self,
        stages: Stages,
        tokenizer: TextTokenizer,
        lanes: int,
        config: SchedulerConfig,
        metrics: MetricSink,
    ) -> None:
        rows = stages.limits.max_batch_size or lanes
        require(1 <= lanes <= rows, "A lane has a row at least", found=lanes, expected=f"1 to {rows} lanes")
        self._lock = threading.Lock()
        self._free: list[int] = []  # rows of each lane that no request has, or less than none
        self._threads: list[SchedulerThread] = []
        gauges = LaneGauges(metrics, lanes)
        try:
            for lane in range(lanes):
                first, end = lane * rows // lanes, (lane + 1) * rows // lanes
                session = ClusterSession(stages, first, end - first)
                session.reset(end - first)
                scheduler = Scheduler(session, tokenizer, config, LaneMetrics(metrics, gauges, lane))
                # One lane is measured, alone; where prompts are cut is then the same in all.
                config = replace(config, chunk_tokens=scheduler.chunk_tokens)
                self._threads.append(SchedulerThread(scheduler))
                self._free.append(end - first)
        except BaseException:
            self.close()  # threads of lanes that have begun would keep the process
            raise

    def submit(self, request: GenerationRequest, client: Client) -> None:
        """Enters a request.

        Raises:
            RequestError: It is refused.
        """
        with self._lock:
            lane = self._free.index(max(self._free))
            self._free[lane] -= 1
        try:
            self._threads[lane].submit(request, replace(client, send=self._counted(lane, client.send)))
        except BaseException:
            self._ended(lane)
            raise

    def close(self) -> None:
        """Ends every request with an error, and all lanes."""
        for thread in self._threads:
            thread.close()

    def _counted(self, lane: int, send: Callable[[RequestEvent], None]) -> Callable[[RequestEvent], None]:
        def counting(event: RequestEvent) -> None:
            if event.is_final:
                self._ended(lane)
            send(event)

        return counting

    def _ended(self, lane: int) -> None:
        with self._lock:
            self._free[lane] += 1
