"""ONNX Runtime's profile: which nodes each call ran, and how long without the nodes inside of them."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1trt.files import bytes_of_file
from r1trt.runtime.session import SessionError

_CALL, _NODE, _SUFFIX = "model_run", "Node", "_kernel_time"
_INLINED = re.compile(r"^(?:_inlfunc_[A-Za-z0-9]+(?:_token_\d+)?_)+")
"""In front of the names of nodes that it took out of a function."""
_MICRO = 1e-6
_MOST_BYTES = 1 << 29
"""Of the million events that it records at most."""

Event = Mapping[str, Any]


def node_seconds(path: Path, calls: int) -> list[dict[str, float]]:
    """Seconds of the nodes of each call, by name; of an If or Loop without the nodes of its bodies.

    Args:
        path: The profile that a session wrote.
        calls: How many calls the session had.

    Raises:
        SessionError: The profile is of another form, or lacks calls.
    """
    try:
        events = json.loads(bytes_of_file(path, limit=_MOST_BYTES, error=SessionError))
        runs = [event for event in events if event["name"] == _CALL]
        nodes = [event for event in events if event["cat"] == _NODE and event["name"].endswith(_SUFFIX)]
        found = [_own_seconds(nodes_of_run) for nodes_of_run in _by_run(runs, nodes)]
    except (ValueError, KeyError, TypeError) as error:
        raise SessionError(
            "ONNX Runtime's profile is of another form.",
            where=path,
            found=f"{type(error).__name__}: {error}",
            expected="that of ONNX Runtime 1.32",
        ) from error
    if len(found) != calls:
        raise SessionError(
            "ONNX Runtime's profile lacks calls: it records a million nodes at most.",
            where=path,
            found=f"{len(found)} calls",
            expected=f"{calls}",
            fix="profile fewer new_tokens, or pass --no-measure",
        )
    return found


def _by_run(runs: Sequence[Event], nodes: Sequence[Event]) -> Iterator[list[Event]]:
    """The nodes that began in each run, in their order; what lies around another comes first."""
    ordered = sorted(nodes, key=lambda event: (event["ts"], -event["dur"]))
    at = 0
    for run in sorted(runs, key=lambda event: event["ts"]):
        begin, end = run["ts"], run["ts"] + run["dur"]
        own = []
        while at < len(ordered) and ordered[at]["ts"] <= end:
            if ordered[at]["ts"] >= begin:
                own.append(ordered[at])
            at += 1
        yield own


def _own_seconds(nodes: Sequence[Event]) -> dict[str, float]:
    found: defaultdict[str, float] = defaultdict(float)
    around: list[tuple[int, str]] = []  # end and name of the nodes that are running
    for event in nodes:
        name, seconds = _INLINED.sub("", event["name"]).removesuffix(_SUFFIX), _MICRO * event["dur"]
        while around and around[-1][0] <= event["ts"]:
            around.pop()
        if around:
            found[around[-1][1]] -= seconds
        found[name] += seconds
        around.append((event["ts"] + event["dur"], name))
    return dict(found)
