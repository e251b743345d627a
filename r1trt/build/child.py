"""The parent's side of a build: starts the builder's child process, follows it, and says why it ended.

A builder can abort or crash on a graph that it does not like. In a child that costs the build and not the
program, and what the child said last is still here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import r1trt
from r1trt.artifacts.build import BuildDirectory
from r1trt.errors import BuildError, R1TrtError
from r1trt.lifetime.children import child_group
from r1trt.lifetime.temporary import temporary_directory
from r1trt.progress import Progress, ignore
from r1trt.text import listing

# From a polite cancellation to a kill, in seconds: the builder looks up only between its steps.
GRACE_S = 10.0
_KEPT_LINES = 12


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """One child's work.

    Attributes:
        backend: "tensorrt" or "tensorrt-rtx".
        directory: Where the engines go; holds the optimization profiles.
        graph: The ONNX file, its weights beside it.
        engines: File name of each engine, by compute capability; with none the network is only read.
        native_layers: Whether the graph has attention or RoPE for TensorRT's own layers.
        plugin_libraries: Libraries to load in front of the parser.
        embed_plugins: Whether the engines carry them.
        timing_cache: File with the timings of earlier builds; None for a builder without.
        timing_cache_named: Whether the user named that file.
    """

    backend: str
    directory: Path
    graph: Path
    engines: Mapping[int, str]
    native_layers: bool = False
    plugin_libraries: Sequence[Path] = ()
    embed_plugins: bool = False
    timing_cache: Path | None = None
    timing_cache_named: bool = False


@dataclass
class _Record:
    """What the child has said so far."""

    version: str = ""
    phase: str = "starting"
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT_LINES))
    error: R1TrtError | None = None
    ended: str | None = None


def build_in_child(
    request: BuildRequest,
    *,
    on_network: Callable[[list[dict[str, Any]]], None],
    progress: Progress = ignore,
) -> str:
    """Build the engines of a request.

    Args:
        request: What to build.
        on_network: Called with the parsed network's layers before building; what it raises ends the build.
        progress: Called with (phase, steps done, steps in all).

    Returns:
        Version of the builder library.

    Raises:
        BuildError: The parser or builder refused the graph, or the child died.
    """
    with temporary_directory("build") as scratch:
        layers = Path(scratch, "network.json")
        path = Path(scratch, "request.json")
        path.write_text(json.dumps(_request_json(request, layers)), encoding="utf-8")
        with Path(scratch, "output.txt").open("w+", encoding="utf-8", errors="replace") as output:
            return _run(path, request.directory, layers, output, on_network, progress)


def _request_json(request: BuildRequest, layers: Path) -> dict[str, Any]:
    # Relative to the worker's working directory: a path's length must not move what the builder allocates.
    directory = request.directory.resolve()
    return {
        "backend": request.backend,
        "directory": ".",
        "graph": os.path.relpath(request.graph.resolve(), directory),
        "profiles": BuildDirectory(path=directory).profiles.name,
        "layers": str(layers),
        "engines": {str(sm): name for sm, name in request.engines.items()},
        "native_layers": request.native_layers,
        "plugin_libraries": [str(library.resolve()) for library in request.plugin_libraries],
        "embed_plugins": request.embed_plugins,
        "timing_cache": None if request.timing_cache is None else str(request.timing_cache),
        "timing_cache_named": request.timing_cache_named,
    }


def _run(
    path: Path,
    directory: Path,
    layers: Path,
    output: TextIO,
    on_network: Callable[[list[dict[str, Any]]], None],
    progress: Progress,
) -> str:
    reading, writing = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "r1trt.build.worker", str(path), str(writing)],
        cwd=directory,
        stdin=subprocess.PIPE,
        # The fixed seed is half of what makes two engines of a graph identical; the worker sees to the rest.
        env={**os.environ, "PYTHONPATH": _python_path(), "PYTHONHASHSEED": "0"},
        stdout=output,
        stderr=output,
        pass_fds=[writing],
        process_group=child_group(),
    )
    os.close(writing)
    record = _Record()
    try:
        with os.fdopen(reading, encoding="utf-8", errors="replace") as events:
            for event in _parsed(events):
                if event["event"] == "network":
                    on_network(json.loads(layers.read_text(encoding="utf-8")))
                    _let_build(child)
                _follow(record, event, progress)
        child.wait()
    finally:
        _stop(child)
    if record.error is not None:
        raise record.error
    if child.returncode != 0 or record.ended != "done":
        raise _death(child.returncode, record, output)
    return record.version


def _python_path() -> str:
    """The child imports the package that is running here, installed or not."""
    package = str(Path(r1trt.__file__).resolve().parents[1])
    return os.pathsep.join(item for item in (package, os.environ.get("PYTHONPATH")) if item)


def _parsed(events: TextIO) -> Iterator[dict[str, Any]]:
    for line in events:
        # A child that dies in the middle of a line leaves half of one.
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and "event" in event:
                yield event


def _let_build(child: subprocess.Popen[bytes]) -> None:
    """Tell the child that its network is what was asked for."""
    assert child.stdin is not None
    with suppress(BrokenPipeError):
        child.stdin.write(b"g")
        child.stdin.flush()


def _follow(record: _Record, event: Mapping[str, Any], progress: Progress) -> None:
    match event["event"]:
        case "started":
            record.version = str(event["version"])
            progress("parse", 0, 1)
        case "network":
            record.phase = "network"
            progress("parse", 1, 1)
        case "progress":
            record.phase = str(event["phase"])
            progress(record.phase, int(event["done"]), int(event["total"]))
        case "log":
            record.lines.append(f"{event['severity']}: {event['text']}")
        case "engine":
            progress(f"engine SM{event['sm']}", 1, 1)
        case "error":
            record.error = _reported(event, record)
        case "done" | "cancelled" as ended:
            record.ended = ended


def _reported(event: Mapping[str, Any], record: _Record) -> BuildError:
    """The child's own error, with the builder's last lines where they tell why."""
    details = dict(event["details"])
    if "found" not in details and record.lines:
        details["found"] = listing(list(record.lines), limit=None)
    return BuildError(str(event["message"]), **details)


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Cancel at the builder's next step; kill after the grace period. An ended child is left alone."""
    if child.stdin is not None:
        with suppress(BrokenPipeError):
            child.stdin.close()
    try:
        child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    except KeyboardInterrupt:  # a second Ctrl-C, where Python is not this project's command: no more patience
        child.kill()
        child.wait()
        raise


def _death(status: int, record: _Record, output: TextIO) -> BuildError:
    output.seek(0)
    printed = [line for line in output.read().splitlines() if line.strip()][-_KEPT_LINES:]
    said = [*record.lines, *printed]
    how = f"exit status {status}"
    fix = "read the builder's last lines below"
    if status < 0:
        name = signal.Signals(-status).name
        how, fix = f"signal {name}", _FIXES.get(name, _FIXES["SIGABRT"])
    return BuildError(
        f"The builder died in the phase '{record.phase}': {how}.",
        found=listing(list(said), limit=None) if said else "no message",
        fix=fix,
    )


_FIXES = {
    "SIGKILL": "most often the machine ran out of memory: a build takes about three times the weights' size",
    "SIGSEGV": "the builder crashed on a form of the graph; try --bf16 or another builder version",
    "SIGABRT": "the builder gave up on a form of the graph; try --bf16 or another builder version",
}
