"""One conversation with TensorRT-RTX, whose ONNX parser ends the process once it has made a plugin.

Arguments: `WAY LIBRARY`, or `parse LIBRARY MODEL`. A way is `load` (by the registry), `dlopen` (and nothing
else, as Triton's backend does), `dlopen then load`, or `global load` (where TensorRT's symbols are global).
Prints one line of JSON a finding.
"""

import ctypes
import json
import sys
from pathlib import Path

import numpy as np
import tensorrt_rtx as trt


class Recorder(trt.ILogger):
    """Prints what TensorRT and the plugins log."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        print(json.dumps({"severity": severity.name, "message": message}), flush=True)


def describe_creators(registry: trt.IPluginRegistry) -> None:
    for creator in registry.all_creators:
        if creator.plugin_namespace != "r1trt":
            continue
        field_types = {field.name: field.type.name for field in creator.field_names}
        created = creator.create_plugin("layer", trt.PluginFieldCollection([]), trt.TensorRTPhase.BUILD)
        core = created.get_capability_interface(trt.PluginCapabilityType.CORE)
        build = created.get_capability_interface(trt.PluginCapabilityType.BUILD)
        finding = {
            "creator": creator.name,
            "version": creator.plugin_version,
            "interface": [creator.interface_info.kind, creator.interface_info.major],
            "fields": field_types,
            "plugin": [core.plugin_name, core.plugin_version, core.plugin_namespace],
            "build": [build.interface_info.kind, build.interface_info.major],
            "outputs": build.num_outputs,
            "timing_cache_id": build.timing_cache_id,
        }
        print(json.dumps(finding), flush=True)


def reject_a_field(registry: trt.IPluginRegistry) -> None:
    creator = registry.get_creator("R1DynamicMoE", "1", "r1trt")
    field = trt.PluginField("top_k", np.array([99], np.int32), trt.PluginFieldType.INT32)
    collection = trt.PluginFieldCollection([field])
    print(
        json.dumps(
            {"refused": creator.create_plugin("layers.7", collection, trt.TensorRTPhase.BUILD) is None}
        )
    )


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
        describe_creators(registry)
        reject_a_field(registry)
    del builder


main(*sys.argv[1:])
