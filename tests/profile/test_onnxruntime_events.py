"""ONNX Runtime's profile, written by hand: calls, nodes inside of nodes, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from r1trt.profile.onnxruntime_events import node_seconds
from r1trt.profile.rounds import phases_of_calls
from r1trt.profile.runs import TimedCall
from r1trt.runtime.session import SessionError


def event(name: str, begin: int, length: int, kind: str = "Node") -> dict[str, Any]:
    ending = "_kernel_time" if kind == "Node" else ""
    return {"cat": kind, "name": name + ending, "ts": begin, "dur": length, "args": {}}


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "profile.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_loop_has_its_own_time_alone(tmp_path: Path) -> None:
    # Events come as they end: those of a body before the loop's own.
    events = [
        event("loading", 0, 5, "Session"),
        event("a", 11, 4),
        event("body/x", 17, 3),
        event("body/x", 21, 3),
        event("loop", 16, 10),
        event("model_run", 10, 20, "Session"),
        event("a", 41, 6),
        event("model_run", 40, 10, "Session"),
    ]
    first, second = node_seconds(written(tmp_path, events), calls=2)
    assert first == pytest.approx({"a": 4e-6, "loop": 4e-6, "body/x": 6e-6})
    assert second == pytest.approx({"a": 6e-6})


def test_names_are_those_in_the_graph(tmp_path: Path) -> None:
    inlined = ("_inlfunc_R1DynamicMoE_a.moe/Add_3", "_inlfunc_R1DynamicMoE_token_13_b.moe/Add_3", "_c")
    events = [event(name, 10 * at, 5) for at, name in enumerate(inlined)]
    (found,) = node_seconds(written(tmp_path, [*events, event("model_run", 0, 99, "Session")]), calls=1)
    assert list(found) == ["a.moe/Add_3", "b.moe/Add_3", "_c"]


def test_calls_that_were_not_recorded_are_missed(tmp_path: Path) -> None:
    path = written(tmp_path, [event("model_run", 0, 1, "Session")])
    with pytest.raises(SessionError, match="lacks calls") as caught:
        node_seconds(path, calls=2)
    assert "new_tokens" in caught.value.details["fix"]


@pytest.mark.parametrize("content", ["", "[", "{}", "[1]", '[{"name": "model_run"}]', "[[]]"])
def test_files_of_another_form(content: str, tmp_path: Path) -> None:
    with pytest.raises(SessionError, match=r"of another form|lacks calls"):
        node_seconds(written(tmp_path, content), calls=1)


def call(phase: Any, number: int, seconds: float) -> TimedCall:
    return TimedCall(phase=phase, round=number, seconds=seconds)


def test_the_median_round_counts() -> None:
    plain = [call(None, -1, 9.0), *(call("prefill", n, s) for n, s in enumerate((3.0, 5.0, 4.0)))]
    plain += [call("decode", 0, 1.0), call("decode", 0, 2.0)]
    nodes = [{"a": 1.0}, {"a": 2.0}, {"a": 3.0}, {"a": 1.5}, {"b": 0.5}, {"b": 0.25, "c": 1.0}]
    found = phases_of_calls(plain, list(zip(plain, nodes, strict=True)), lambda name: (name,))
    assert list(found) == ["prefill", "decode"]
    assert found["prefill"].seconds == 4.0 and found["decode"].seconds == 3.0
    assert {node.name: node.seconds for node in found["prefill"].nodes} == {"a": 2.0}
    assert {node.name: node.seconds for node in found["decode"].nodes} == {"b": 0.75, "c": 1.0}
    assert found["prefill"].outside == 2.0


def test_nodes_are_no_longer_than_the_call_without_a_profiler() -> None:
    plain, slower = [call("prefill", 0, 1.0)], [(call("prefill", 0, 5.0), {"a": 3.0, "b": 1.0})]
    found = phases_of_calls(plain, slower, lambda name: (name,))["prefill"]
    assert {node.name: node.seconds for node in found.nodes} == {"a": 0.75, "b": 0.25}
    assert (found.seconds, found.profiled_seconds, found.outside) == (1.0, 5.0, 0.0)
