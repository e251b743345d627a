"""Writes the tables of docs/scale.md: R1-671B in stages on three machines, by arithmetic and by simulation.

python scripts/write_scale.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from types import MappingProxyType

from r1trt.arch import BuildPrecision
from r1trt.estimate.gpus import DEVICES, GB, TERA, Device
from r1trt.estimate.pipeline import Pipeline, pipeline_run, seconds_of_round, steady_bubble
from r1trt.estimate.placement import RESERVED_BYTES
from r1trt.estimate.planned import PlannedModel, planned_model
from r1trt.estimate.source import sized_model
from r1trt.estimate.stages import Stage, stages_of
from r1trt.ops.cost import CallSize

PAGE = Path(__file__).resolve().parent.parent / "docs" / "scale.md"
MODEL = "r1-671b"
TOKENS = 4096  # that each row's cache holds, and all of which a call reads
BATCHES, MICRO_BATCHES, CHUNKS = (1, 32, 256, 1024), (1, 2, 4, 8, 16, 32), (1, 4, 16, 64)
CHUNK = 512
HIDDEN, EXPERT_LAYERS, TOP_K = 7168, 58, 8
BF16_BYTES, FP8_BYTES = 2, 1
SLOW_HOP = 1e-3

SOCKET = Device(
    name="cpu-server",
    title="a socket of EPYC 9755",
    arch="cpu",
    memory=768 * GB,
    bandwidth=614.4 * GB,
    operations=MappingProxyType({"fp32": 22.1 * TERA, "int8": 88.5 * TERA}),
    reached_bandwidth=0.8,
    reached_operations=0.5,
    source="12 channels of DDR5-6400; 128 cores of 2.7 GHz with AVX-512, 64 FP32 operations a cycle",
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Devices in a row, a stage each.

    Attributes:
        title: What tables call it.
        device: One of them.
        count: How many.
        precision: What the model is built in.
        link: Bytes a second from one to the next; of several links the slowest.
    """

    title: str
    device: Device
    count: int
    precision: BuildPrecision
    link: float

    @property
    def planned(self) -> PlannedModel:
        """The model in this machine's types."""
        return _planned(self.device.arch, self.precision)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The model in as many stages as there are devices."""
        return _stages(self.device.arch, self.precision, self.count)

    def pipeline(self, call: CallSize, hop: float = 0.0) -> Pipeline:
        """The pipeline of calls like this; `hop` is what a step to the next stage takes beside its bytes."""
        sent = call.batch * call.tokens * HIDDEN * BF16_BYTES
        costs = self.planned.costs(call)
        seconds = tuple(stage.seconds(costs, self.device) for stage in self.stages)
        return Pipeline(stage_seconds=seconds, transfer_seconds=sent / self.link + hop, front_seconds=hop)


MACHINES = (
    Machine(title="8 x H200", device=DEVICES["h200"], count=8, precision="fp8", link=450 * GB),
    Machine(title="16 x H100", device=DEVICES["h100"], count=16, precision="fp8", link=50 * GB),
    Machine(title="2-socket CPU server", device=SOCKET, count=2, precision="int8", link=100 * GB),
)


@cache
def _planned(arch: str, precision: BuildPrecision) -> PlannedModel:
    return planned_model(sized_model(MODEL), arch, precision, TOKENS, last_token_logits=True)


@cache
def _stages(arch: str, precision: BuildPrecision, count: int) -> tuple[Stage, ...]:
    return stages_of(_planned(arch, precision), count)


def decode(batch: int) -> CallSize:
    """A token for every row, with full caches."""
    return CallSize(batch=batch, tokens=1, past=TOKENS - 1)


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    """A table in Markdown; all columns but the first are figures."""
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *rows))


def memory_rows() -> Iterator[Sequence[str]]:
    """What each stage holds; neighbours that are alike share a row."""
    for machine in MACHINES:
        alike = groupby(enumerate(machine.stages), key=lambda item: _size_of(item[1]))
        for _, found in alike:
            stages = list(found)
            (start, first), (end, last) = stages[0], stages[-1]
            assert machine.device.memory is not None
            room = machine.device.memory - RESERVED_BYTES - first.weight_bytes
            yield (
                machine.title,
                str(start) if start == end else f"{start} to {end}",
                f"{first.first} to {last.last}",
                _gb(first.weight_bytes),
                _gb(first.expert_bytes),
                _gb(first.weight_bytes - first.expert_bytes),
                f"{first.cache_token_bytes / 1e3:.1f} kB",
                f"{room / first.cache_token_bytes / 1e6:.1f} million" if room > 0 else "none",
            )


def _size_of(stage: Stage) -> tuple[int, int, int]:
    return stage.last - stage.first, stage.weight_bytes, stage.cache_token_bytes


def memory() -> str:
    """Memory by part."""
    head = ("machine", "stage", "layers", "weights", "experts", "all else")
    return table((*head, "cache a token", "tokens that fit"), memory_rows())


def bounds() -> str:
    """Bytes and bounds by batch."""
    head = ("machine", "batch", "moved a token", "tokens/s, one call", "tokens/s, micro-batches")
    return table((*head, "micro-batches", "stages wait", "tokens/s, layers shared"), bound_rows())


def bound_rows() -> Iterator[Sequence[str]]:
    """A whole batch in one call, the best number of micro-batches, and devices that share each layer."""
    for machine in MACHINES:
        for batch in BATCHES:
            whole = machine.pipeline(decode(batch))
            costs = machine.planned.costs(decode(batch))
            moved = sum(stage.cost(costs).moved_bytes for stage in machine.stages)
            parts = min((n for n in range(1, batch + 1) if batch % n == 0), key=_round_of(machine, batch))
            seconds = _round_of(machine, batch)(parts)
            yield (
                machine.title,
                str(batch),
                _gb(moved / batch),
                _rate(batch / seconds_of_round(whole, 1)),
                _rate(batch / seconds),
                str(parts),
                f"{steady_bubble(machine.pipeline(decode(batch // parts)), parts):.0%}",
                _rate(batch * machine.count / sum(whole.stage_seconds)),
            )


def _round_of(machine: Machine, batch: int) -> Callable[[int], float]:
    return lambda parts: seconds_of_round(machine.pipeline(decode(batch // parts)), parts)


def bubbles() -> str:
    """Micro-batches of one batch."""
    head = ("machine", "micro-batches", "rows of each", "a token of every row", "tokens/s", "stages wait")
    return table((*head, "tokens/s with 1 ms a hop", "stages wait"), bubble_rows())


def bubble_rows() -> Iterator[Sequence[str]]:
    """Of 256 rows, with hops that take their bytes alone, and with slow ones."""
    batch = 256
    for machine in MACHINES[:2]:
        for parts in MICRO_BATCHES:
            call = decode(batch // parts)
            quick, slow = machine.pipeline(call), machine.pipeline(call, SLOW_HOP)
            seconds = seconds_of_round(quick, parts)
            yield (
                machine.title,
                str(parts),
                str(batch // parts),
                f"{1e3 * seconds:.1f} ms",
                _rate(batch / seconds),
                f"{steady_bubble(quick, parts):.0%}",
                _rate(batch / seconds_of_round(slow, parts)),
                f"{steady_bubble(slow, parts):.0%}",
            )


def prefill() -> str:
    """Chunks of prompts, which need not wait for each other."""
    head = ("machine", "chunks", "prompt tokens/s", "stages wait")
    return table(head, prefill_rows())


def prefill_rows() -> Iterator[Sequence[str]]:
    """Of an empty pipeline that empties again."""
    for machine in MACHINES[:2]:
        pipeline = machine.pipeline(CallSize(batch=1, tokens=CHUNK))
        for chunks in CHUNKS:
            run = pipeline_run(pipeline, chunks)
            yield machine.title, str(chunks), _rate(chunks * CHUNK / run.seconds), f"{run.bubble:.0%}"


def experts() -> str:
    """What experts on several devices send, and what a stage of its own sends instead."""
    sent = HIDDEN * EXPERT_LAYERS * TOP_K * (FP8_BYTES + BF16_BYTES)
    link = MACHINES[0].link
    rows = (
        ("to each token's 8 experts in FP8 and back in BF16, 58 layers", f"{sent / 1e6:.2f} MB"),
        ("all of it for 256 rows, 8 devices, 450 GB/s each", f"{1e3 * 256 * sent / 8 / link:.2f} ms"),
        ("116 exchanges of 20 us", f"{1e3 * 2 * EXPERT_LAYERS * 20e-6:.2f} ms"),
        ("a pipeline: one hidden state a hop, 7 hops", f"{7 * HIDDEN * BF16_BYTES / 1e3:.0f} kB"),
    )
    return table(("a token, between devices", ""), iter(rows))


TABLES = {"memory": memory, "bounds": bounds, "bubbles": bubbles, "prefill": prefill, "experts": experts}


def page(text: str) -> str:
    """The page with its tables computed anew."""
    for name, make in TABLES.items():
        begin, end = f"<!-- {name}: written by scripts/write_scale.py -->\n", f"<!-- end of {name} -->"
        assert begin in text and end in text, f"{PAGE}: no place for the table '{name}'"
        before, _, rest = text.partition(begin)
        text = before + begin + make() + end + rest.partition(end)[2]
    return text


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
