"""The builder's child process: `python -m r1trt.build.worker REQUEST.json EVENTS_FD`.

A parser or builder can abort the process that it runs in, so it runs here. Events go to the parent as JSON
lines on a descriptor of their own, since the libraries print to the standard ones. Standard input is a
lifeline: when it ends, the build is cancelled at the next step.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1trt.build.builder_api import BUILDER_APIS, BuilderApi, configure, network_flags
from r1trt.build.profile import OptimizationProfile, load_profiles
from r1trt.build.read_back import layers_of_network
from r1trt.errors import BuildError

# Without a GPU the library adds to many errors that it cannot ask one (35: no driver, 100: no device).
# That is beside the point wherever the target is named.
NOISE = ("cudaError 35", "cudaError 100", "CUDA initialization failure", "catchCudaError")
_REPORT_EVERY_S = 0.05
_PR_SET_PDEATHSIG = 1
_ADDR_NO_RANDOMIZE = 0x0040000
_ASK_PERSONALITY = 0xFFFFFFFF
_MAX_ERRORS = 20


def _restart_with_fixed_addresses() -> None:
    """Run again without address space randomization.

    TensorRT-RTX 1.7 numbers its symbolic shapes in the order of their addresses, so that two engines of the
    same graph would differ in a few bytes. Where the kernel forbids it (some containers), they may.
    """
    libc = ctypes.CDLL(None)
    persona = libc.personality(_ASK_PERSONALITY)
    if persona == -1 or persona & _ADDR_NO_RANDOMIZE or libc.personality(persona | _ADDR_NO_RANDOMIZE) == -1:
        return
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


class _Channel:
    """Events to the parent, cancellation from it."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "w", encoding="utf-8", buffering=1)
        self.cancelled = False

    def send(self, event: str, **fields: Any) -> None:
        self._file.write(json.dumps({"event": event, **fields}) + "\n")

    def check_cancelled(self) -> bool:
        # Polled in the builder's own callbacks: a watching thread might never get the interpreter's lock.
        if not self.cancelled and select.select([sys.stdin], [], [], 0)[0]:
            self.cancelled = True
        return self.cancelled


def _logger(trt: Any, channel: _Channel) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]  # the base class is only known once a module is chosen
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity <= trt.ILogger.WARNING and not any(noise in text for noise in NOISE):
                channel.send("log", severity=str(severity).rpartition(".")[2].lower(), text=text)

    return Logger()


def _progress_monitor(trt: Any, channel: _Channel) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # as above
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._last = 0.0

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._steps[name] = steps
            channel.send("progress", phase=name, done=0, total=steps)

        def phase_finish(self, name: str) -> None:
            steps = self._steps.pop(name, 0)
            channel.send("progress", phase=name, done=steps, total=steps)

        def step_complete(self, name: str, step: int) -> bool:
            now = time.monotonic()
            if now - self._last >= _REPORT_EVERY_S:
                self._last = now
                channel.send("progress", phase=name, done=step + 1, total=self._steps.get(name, 0))
            return not channel.check_cancelled()

    return Monitor()


def _file_writer(trt: Any, path: Path) -> Any:
    class Writer(trt.IStreamWriter):  # type: ignore[misc]  # as above
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)
            self.file = path.open("wb")
            self.error: OSError | None = None

        def write(self, data: Any) -> int:
            try:
                return self.file.write(data)
            except OSError as error:
                self.error = error
                return 0

    return Writer()


def _parse(trt: Any, logger: Any, network: Any, graph: Path) -> Any:
    """Parse `graph`; returns the parser, which must outlive the network.

    Raises:
        BuildError: With the parser's errors, each with its node.
    """
    content = graph.read_bytes()
    parser = trt.OnnxParser(network, logger)
    # The path lets the parser find the weights beside the graph.
    parsed = bool(content) and parser.parse(content, str(graph))
    if parsed and network.num_layers:
        return parser
    errors = [parser.get_error(index) for index in range(min(parser.num_errors, _MAX_ERRORS))]
    listed = [f"node '{e.node_name()}' ({e.node_operator()}): {e.desc()}" for e in errors]
    if (
        any("deserialize" in str(e.desc()).lower() or "DESERIALIZE" in str(e.code()) for e in errors)
        or not errors
    ):
        raise BuildError(
            "The graph file is not an ONNX model.",
            where=graph.name,
            found=f"{len(content)} bytes" if content else "an empty file",
            fix="build again from the export",
        )
    raise BuildError("The parser refused the graph.", where=graph.name, found="\n    ".join(["", *listed]))


def _add_profiles(builder: Any, network: Any, config: Any, profiles: list[OptimizationProfile]) -> None:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    for profile in profiles:
        added = builder.create_optimization_profile()
        for tensor in inputs:
            shapes = profile.inputs.get(tensor.name)
            if shapes is None:
                raise BuildError(f"Profile '{profile.name}' does not cover input '{tensor.name}'.")
            setter = added.set_shape_input if tensor.is_shape_tensor else added.set_shape
            setter(tensor.name, shapes.min, shapes.opt, shapes.max)
        if config.add_optimization_profile(added) < 0:
            raise BuildError(f"The builder refused profile '{profile.name}'.", found=profile)


def _serialize(trt: Any, builder: Any, network: Any, config: Any, path: Path) -> bool:
    """Build to a file, piece by piece where the library can."""
    if not hasattr(builder, "build_serialized_network_to_stream"):
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            return False
        path.write_bytes(engine)
        return True
    writer = _file_writer(trt, path)
    try:
        built = builder.build_serialized_network_to_stream(network, config, writer)
    finally:
        writer.file.close()
    if writer.error is not None:
        raise BuildError("The engine cannot be written.", where=path.name, found=writer.error)
    return bool(built) and path.stat().st_size > 0


def _build_engine(
    trt: Any,
    api: BuilderApi,
    channel: _Channel,
    request: Mapping[str, Any],
    builder: Any,
    network: Any,
    sm: int,
) -> None:
    config = builder.create_builder_config()
    configure(trt, api, config, sm)
    if request.get("embed_plugins"):
        config.plugins_to_serialize = request["plugin_libraries"]
    monitor = _progress_monitor(trt, channel)
    config.progress_monitor = monitor
    _add_profiles(builder, network, config, load_profiles(Path(request["profiles"])))
    file = request["engines"][str(sm)]
    if not _serialize(trt, builder, network, config, Path(request["directory"]) / file):
        if channel.check_cancelled():
            raise KeyboardInterrupt
        raise BuildError(f"The builder made no engine for SM{sm}.")
    channel.send("engine", sm=sm, file=file)


def _build(channel: _Channel, request: Mapping[str, Any]) -> None:
    api = BUILDER_APIS[request["backend"]]
    trt = importlib.import_module(api.module)
    logger = _logger(trt, channel)
    channel.send("started", version=trt.__version__)
    builder = trt.Builder(logger)
    _load_plugins(builder, request.get("plugin_libraries", []))
    network = builder.create_network(network_flags(trt))
    parser = _parse(trt, logger, network, Path(request["graph"]))
    layers = layers_of_network(network)
    Path(request["layers"]).write_text(json.dumps(layers), encoding="utf-8")
    channel.send("network", layers=len(layers))
    if request.get("parse_only") or not _may_go_on(channel):
        return
    for sm in map(int, request["engines"]):
        _build_engine(trt, api, channel, request, builder, network, sm)
    del parser


def _load_plugins(builder: Any, libraries: list[str]) -> None:
    for library in libraries:
        if builder.get_plugin_registry().load_library(library) is None:
            raise BuildError("A plugin library cannot be loaded.", where=library)


def _may_go_on(channel: _Channel) -> bool:
    """Wait until the parent has compared the network with the plan; it says so with one byte."""
    if os.read(sys.stdin.fileno(), 1) == b"g":
        return True
    channel.cancelled = True
    return False


def main(request_path: str, events: str) -> int:
    """Run one build request; errors become an event."""
    faulthandler.enable()
    # The lifeline needs the builder to call back; this does not.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    channel = _Channel(int(events))
    try:
        _build(channel, json.loads(Path(request_path).read_text(encoding="utf-8")))
    except BuildError as error:
        channel.send("error", message=error.message, details=error.details)
        return 1
    except KeyboardInterrupt:
        channel.cancelled = True
    channel.send("cancelled" if channel.cancelled else "done")
    return 0


if __name__ == "__main__":
    _restart_with_fixed_addresses()
    sys.exit(main(*sys.argv[1:]))
