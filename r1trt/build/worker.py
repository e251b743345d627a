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
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1trt.artifacts.profiles import OptimizationProfile, load_profiles
from r1trt.build.builder_api import (
    BUILDER_APIS,
    BuilderApi,
    configure,
    network_flags,
    require_native_layers,
)
from r1trt.build.callbacks import Channel, builder_logger, file_writer, progress_monitor
from r1trt.build.read_back import layers_of_network
from r1trt.build.timing_cache import load_timing_cache, save_timing_cache
from r1trt.errors import BuildError, R1TrtError
from r1trt.graph.wire import graph_bytes
from r1trt.text import listing

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


def _parse(trt: Any, logger: Any, network: Any, graph: Path) -> Any:
    """Parse `graph`; returns the parser, which must outlive the network.

    Raises:
        BuildError: With the parser's errors, each with its node.
    """
    content = graph_bytes(graph)
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
    raise BuildError("The parser refused the graph.", where=graph.name, found=listing(listed, limit=None))


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
    writer = file_writer(trt, path)
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
    channel: Channel,
    request: Mapping[str, Any],
    builder: Any,
    network: Any,
    sm: int,
) -> None:
    config = builder.create_builder_config()
    configure(trt, api, config, sm)
    if request.get("embed_plugins"):
        config.plugins_to_serialize = request["plugin_libraries"]
    monitor = progress_monitor(trt, channel)
    config.progress_monitor = monitor
    _add_profiles(builder, network, config, load_profiles(Path(request["profiles"])))
    timings = Path(request["timing_cache"]) if request.get("timing_cache") else None
    named = bool(request.get("timing_cache_named"))
    cache = None if timings is None else load_timing_cache(config, timings, named=named)
    file = request["engines"][str(sm)]
    if not _serialize(trt, builder, network, config, Path(request["directory"]) / file):
        if channel.check_cancelled():
            raise KeyboardInterrupt
        raise BuildError(f"The builder made no engine for SM{sm}.")
    channel.send("engine", sm=sm, file=file)
    if timings is not None and cache is not None:
        try:
            save_timing_cache(config, timings, named=named)
        except (OSError, R1TrtError) as error:  # the engine is there; only the next build takes longer
            channel.send("log", severity="warning", text=f"The timing cache was not written: {error}")


def _build(channel: Channel, request: Mapping[str, Any]) -> None:
    api = BUILDER_APIS[request["backend"]]
    trt = importlib.import_module(api.module)
    logger = builder_logger(trt, channel)
    channel.send("started", version=trt.__version__)
    if request.get("native_layers"):
        require_native_layers(trt)
    builder = trt.Builder(logger)
    _load_plugins(builder, request.get("plugin_libraries", []))
    network = builder.create_network(network_flags(trt))
    parser = _parse(trt, logger, network, Path(request["graph"]))
    layers = layers_of_network(network)
    Path(request["layers"]).write_text(json.dumps(layers), encoding="utf-8")
    channel.send("network", layers=len(layers))
    if not request["engines"] or not _may_go_on(channel):
        return
    for sm in map(int, request["engines"]):
        _build_engine(trt, api, channel, request, builder, network, sm)
    del parser


def _load_plugins(builder: Any, libraries: list[str]) -> None:
    for library in libraries:
        if builder.get_plugin_registry().load_library(library) is None:
            raise BuildError("A plugin library cannot be loaded.", where=library)


def _may_go_on(channel: Channel) -> bool:
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
    channel = Channel(int(events))
    try:
        _build(channel, json.loads(Path(request_path).read_text(encoding="utf-8")))
    except R1TrtError as error:
        channel.send("error", message=error.message, details=error.details)
        return 1
    except KeyboardInterrupt:
        channel.cancelled = True
    channel.send("cancelled" if channel.cancelled else "done")
    return 0


if __name__ == "__main__":
    _restart_with_fixed_addresses()
    sys.exit(main(*sys.argv[1:]))
