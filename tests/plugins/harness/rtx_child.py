"""One conversation with TensorRT-RTX, whose ONNX parser ends the process once it has made a plugin.

Arguments: `WAY LIBRARY`, or `parse LIBRARY MODEL`. A way is `load` (by the registry), `dlopen` (and nothing
else, as Triton's backend does), `dlopen then load`, or `global load` (where TensorRT's symbols are global).
Prints one line of JSON a finding.
"""

import ctypes
import json
import sys
from pathlib import Path

import tensorrt_rtx as trt
from harness.registry_conversation import describe_creators, reject_a_field


class Recorder(trt.ILogger):
    """Prints what TensorRT and the plugins log."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        print(json.dumps({"severity": severity.name, "message": message}), flush=True)


def parse(logger: Recorder, model: str) -> None:
    network = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(model)
    print(
        json.dumps(
            {"parsed": parsed, "errors": [parser.get_error(i).desc() for i in range(parser.num_errors)]}
        )
    )


def make_registry_global() -> None:
    """Puts TensorRT's symbols in reach, as they are where a program is linked to it."""
    maps = Path("/proc/self/maps").read_text(encoding="ascii")
    [runtime] = {line.split()[-1] for line in maps.splitlines() if "/libtensorrt_rtx.so" in line}
    ctypes.CDLL(runtime, mode=ctypes.RTLD_GLOBAL)


def main(command: str, library: str, *rest: str) -> None:
    logger = Recorder()
    builder = trt.Builder(logger)
    registry = trt.get_plugin_registry()
    if command != "load" and command != "parse":
        make_registry_global()
    if command in ("dlopen", "dlopen then load"):
        ctypes.CDLL(library)
    if command != "dlopen":
        print(json.dumps({"loaded": registry.load_library(library) is not None}), flush=True)
    if command == "parse":
        parse(logger, *rest)
    else:
        describe_creators(trt, registry)
        reject_a_field(trt, registry)
    del builder


main(*sys.argv[1:])
