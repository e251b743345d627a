"""The load generator and the serving benchmark: arrivals, mixes, percentiles, medians, trends."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    names = ("load_generator", "serving_report", "soak_serving", "llama_server", "processes")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield {name: importlib.import_module(name) for name in names}
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def load(scripts: dict[str, ModuleType]) -> Any:
    return scripts["load_generator"]


def outcome(load: Any, sent_at: float, first: float, last: float, tokens: int, **more: Any) -> Any:
    return load.Outcome(
        sent_at=sent_at, token_times=[first, last], new_tokens=tokens, ended_at=last, prompt_tokens=3, **more
    )


def test_arrivals_are_a_poisson_process(load: Any) -> None:
    rate, duration = 5.0, 2000.0
    times = np.array(list(load.arrival_times(rate, duration, seed=3)))
    gaps = np.diff(times)
    assert np.all(gaps > 0) and times[-1] <= duration
    # A Poisson count's deviation is its square root; exponential gaps have a deviation equal to their mean.
    assert abs(len(times) - rate * duration) < 4 * np.sqrt(rate * duration)
    assert np.std(gaps) == pytest.approx(np.mean(gaps), rel=0.05)


def test_equal_seeds_give_equal_loads(load: Any) -> None:
    assert list(load.arrival_times(2.0, 50.0, 1)) == list(load.arrival_times(2.0, 50.0, 1))
    assert list(load.arrival_times(2.0, 50.0, 1)) != list(load.arrival_times(2.0, 50.0, 2))
    assert load.requests_of_mix("mixed", 40, 64, 1) == load.requests_of_mix("mixed", 40, 64, 1)
    assert load.requests_of_mix("mixed", 40, 64, 1) != load.requests_of_mix("mixed", 40, 64, 2)


@pytest.mark.parametrize("mix", ["short", "mixed", "long"])
def test_a_mix_has_its_lengths(load: Any, mix: str) -> None:
    requests = load.requests_of_mix(mix, 300, 64)
    sentences = {request.prompt.count(load.FILLER.strip()) for request in requests}
    assert sentences == set(load.MIXES[mix])
    assert {request.max_tokens for request in requests} == ({64} if mix == "short" else {16, 32, 64})


def test_percentiles_are_in_milliseconds(load: Any) -> None:
    assert load.percentiles([index / 1000 for index in range(101)]) == {"p50": 50.0, "p90": 90.0, "p99": 99.0}
    assert load.percentiles([]) == {}


def test_summary_leaves_failed_requests_out_of_the_figures(load: Any) -> None:
    outcomes = [
        outcome(load, 0.0, 0.1, 1.1, 11),
        outcome(load, 1.0, 1.3, 2.0, 1),
        outcome(load, 0.5, 0.6, 9.0, 99, error="refused"),
    ]
    result = load.summary(outcomes[:2])
    assert (result["requests"], result["errors"], result["new_tokens"]) == (2, 0, 12)
    assert (result["seconds"], result["new_tokens_per_second"]) == (2.0, 6.0)
    assert result["time_to_first_token_ms"]["p50"] == 200.0
    # An answer of one token has no time per token.
    assert result["time_per_token_ms"]["p50"] == 100.0
    failed = load.summary(outcomes)
    assert (failed["errors"], failed["new_tokens"], failed["total_ms"]["p99"]) == (1, 12, 1099.0)


def test_a_closed_load_keeps_its_concurrency(load: Any) -> None:
    running, most = 0, 0

    async def send(request: Any, started: float) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.002)
        running -= 1
        return outcome(load, 0.0, 0.1, 0.2, 1, text=request.prompt)

    requests = [load.Request(prompt=str(index), max_tokens=1) for index in range(20)]
    outcomes = asyncio.run(load.closed_load(send, requests, 4))
    assert most == 4
    assert sorted(each.text for each in outcomes) == sorted(request.prompt for request in requests)


def test_an_open_load_does_not_wait_for_answers(load: Any) -> None:
    running, most = 0, 0

    async def send(request: Any, started: float) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.3)
        running -= 1
        return outcome(load, 0.0, 0.1, 0.2, 1, text=request.prompt)

    requests = [load.Request(prompt=name, max_tokens=1) for name in "ab"]
    outcomes = asyncio.run(load.open_load(send, requests, iter([0.0, 0.01, 0.02])))
    assert most == 3
    assert [each.text for each in outcomes] == ["a", "b", "a"]


def test_medians_and_ratios(scripts: dict[str, ModuleType]) -> None:
    report = scripts["serving_report"]

    def result(contender: str, concurrency: int, throughput: float) -> dict[str, Any]:
        latency = {"p50": 10 * throughput, "p99": 20 * throughput}
        return {
            "contender": contender,
            "concurrency": concurrency,
            "new_tokens_per_second": throughput,
            "time_to_first_token_ms": latency,
            "time_per_token_ms": latency,
        }

    results = [result("ours", 1, value) for value in (9.0, 10.0, 50.0)]
    results += [result("ours", 8, 40.0), result("peer", 8, 20.0), result("peer", 1, 10.0)]
    rows = report.medians(results)
    assert [(row["contender"], row["concurrency"]) for row in rows] == [
        ("ours", 1),
        ("peer", 1),
        ("ours", 8),
        ("peer", 8),
    ]
    assert rows[0]["tokens_per_second"] == 10.0 and rows[0]["tokens_per_second_range"] == [9.0, 50.0]
    assert rows[0]["time_to_first_token_ms_p99"] == 200.0
    assert report.ratios(rows, "ours") == {
        "ours / peer, 1 at a time": 1.0,
        "ours, 8 at a time / 1": 4.0,
        "peer, 8 at a time / 1": 2.0,
        "ours / peer, 8 at a time": 2.0,
    }


def test_a_leak_is_told_from_a_warm_up(scripts: dict[str, ModuleType]) -> None:
    soak = scripts["soak_serving"]
    times = np.arange(0.0, 600.0)
    warm_up = 1e9 + 5e7 * np.minimum(times / 60, 1)
    steady = soak.trend(times, warm_up, 120.0)
    assert steady.growth_mb == 0 and steady.start_mb == 1050 and steady.seconds == 479
    leaking = soak.trend(times, warm_up + 1e5 * times, 120.0)
    assert leaking.mb_per_hour == pytest.approx(360) and leaking.growth_mb == pytest.approx(47.9)
    with pytest.raises(ValueError, match="too few"):
        soak.trend(times[:100], warm_up[:100], 120.0)


def test_problems_of_a_soak(scripts: dict[str, ModuleType]) -> None:
    soak = scripts["soak_serving"]
    steady = {"growth_mb": 0.4, "seconds": 480}
    report = {"errors": [], "load": {"requests": 9}, "memory": {"server": steady}, "tolerance_mb": 5.0}
    assert soak.problems(report) == []
    assert "refused" in soak.problems({**report, "errors": ["refused"]})[0]
    leaking = {**report, "memory": {"server": steady, "model": {"growth_mb": 9.1, "seconds": 480}}}
    assert soak.problems(leaking) == ["model grew by 9.1 MB in 480 s"]


def test_events_of_a_chunked_answer(scripts: dict[str, ModuleType]) -> None:
    client = scripts["llama_server"]
    stream = b'data: {"content": "a"}\n\n: a comment\n\ndata: {"content": "\\u00e9"}\n\n'

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for start in range(0, len(stream), 7):  # chunks that end in the middle of messages
            piece = stream[start : start + 7]
            writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        writer.write(b"0\r\n\r\n")
        writer.close()

    async def run() -> list[dict[str, Any]]:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return [event async for event in client._events(port, {"prompt": [1]})]

    assert asyncio.run(run()) == [{"content": "a"}, {"content": "é"}]


def test_resident_memory_and_descendants_of_a_process(scripts: dict[str, ModuleType]) -> None:
    import os
    import subprocess

    processes = scripts["processes"]
    code = "import sys; block = bytearray(b'x') * (64 << 20); print(); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert child.pid in processes.processes_below(os.getpid())
        assert (64 << 20) < processes.resident_bytes(child.pid) < (256 << 20)
        assert 0 < processes.processor_seconds(child.pid) < 60
        child.communicate()
