"""What the generation model measures, and where the numbers go."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number that a monitoring system reads.

    Attributes:
        name: Its name; the server adds the model as a label.
        kind: A counter only grows, a gauge moves both ways, a histogram counts observations by size.
        description: One sentence.
        buckets: Upper bounds of a histogram.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    buckets: Sequence[float] = ()


FINISHED = Metric(name="r1trt_requests_finished", kind="counter", description="Requests answered in full.")
FAILED = Metric(name="r1trt_requests_failed", kind="counter", description="Requests ended by an error.")
CANCELLED = Metric(
    name="r1trt_requests_cancelled", kind="counter", description="Requests whose client went away."
)
REFUSED = Metric(
    name="r1trt_requests_refused",
    kind="counter",
    description="Requests refused as invalid or for a full queue.",
)
PROMPT_TOKENS = Metric(name="r1trt_prompt_tokens", kind="counter", description="Prompt tokens read.")
REUSED_TOKENS = Metric(
    name="r1trt_prompt_tokens_reused",
    kind="counter",
    description="Prompt tokens that stood in the cache and were not read.",
)
NEW_TOKENS = Metric(name="r1trt_generated_tokens", kind="counter", description="Tokens generated.")
PREFILL_STEPS = Metric(name="r1trt_prefill_steps", kind="counter", description="Calls that read prompts.")
DECODE_STEPS = Metric(
    name="r1trt_decode_steps", kind="counter", description="Calls that gave every running request a token."
)
DRAFTED_TOKENS = Metric(
    name="r1trt_drafted_tokens", kind="counter", description="Tokens of drafts that were looked up."
)
ACCEPTED_TOKENS = Metric(
    name="r1trt_accepted_tokens", kind="counter", description="Tokens of drafts that were chosen."
)
WAITING = Metric(name="r1trt_requests_waiting", kind="gauge", description="Requests that wait for a row.")
RUNNING = Metric(name="r1trt_requests_running", kind="gauge", description="Requests that hold a row.")
CACHE_USE = Metric(
    name="r1trt_cache_use", kind="gauge", description="Part of the KV cache that holds tokens, 0 to 1."
)
QUEUE_SECONDS = Metric(
    name="r1trt_queue_seconds", kind="histogram", description="Wait for a row.", buckets=SECONDS
)
FIRST_TOKEN_SECONDS = Metric(
    name="r1trt_time_to_first_token_seconds",
    kind="histogram",
    description="From a request's arrival to its first token.",
    buckets=SECONDS,
)
TOKEN_SECONDS = Metric(
    name="r1trt_time_per_token_seconds",
    kind="histogram",
    description="Mean time of a request's tokens after the first.",
    buckets=SECONDS,
)

ALL_METRICS = (
    FINISHED, FAILED, CANCELLED, REFUSED, PROMPT_TOKENS, REUSED_TOKENS, NEW_TOKENS, PREFILL_STEPS,
    DECODE_STEPS, DRAFTED_TOKENS, ACCEPTED_TOKENS, WAITING, RUNNING, CACHE_USE, QUEUE_SECONDS,
    FIRST_TOKEN_SECONDS, TOKEN_SECONDS,
)  # fmt: skip


class MetricSink(Protocol):
    """Takes measurements, from any thread."""

    def add(self, metric: Metric, amount: float = 1) -> None:
        """Counts."""
        ...

    def set(self, metric: Metric, value: float) -> None:
        """Sets a gauge."""
        ...

    def observe(self, metric: Metric, value: float) -> None:
        """Enters one observation into a histogram."""
        ...

    def flush(self) -> None:
        """Makes everything visible."""
        ...


class RecordedMetrics:
    """Measurements kept in memory."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.gauges: dict[str, float] = {}
        self.observations: defaultdict[str, list[float]] = defaultdict(list)

    def add(self, metric: Metric, amount: float = 1) -> None:
        """Counts."""
        self.counts[metric.name] += int(amount)

    def set(self, metric: Metric, value: float) -> None:
        """Sets a gauge."""
        self.gauges[metric.name] = value

    def observe(self, metric: Metric, value: float) -> None:
        """Keeps one observation."""
        self.observations[metric.name].append(value)

    def flush(self) -> None:
        """Everything is visible at once."""
