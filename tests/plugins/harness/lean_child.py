"""One conversation with the registry of TensorRT 11.4's lean runtime: `WAY LIBRARY LAYERS`.

A way is `load` (by the registry) or `dlopen`. LAYERS is JSON: a list of `[operator, fields, phase]`. Prints
one line of JSON a finding; those of the layers come last.
"""

import ctypes
import json
import sys

from harness.genuine_tensorrt import LEAN, genuine_tensorrt, lean_module
from harness.registry_conversation import create, describe_creators, facts_of_plugin, reject_a_field


def main(way: str, library: str, layers: str) -> None:
    folder = genuine_tensorrt()
    trt = lean_module(folder)
    registry = trt.get_plugin_registry()
    print(json.dumps({"tensorrt": ctypes.CDLL(str(folder / LEAN)).getInferLibVersion()}), flush=True)
    if way == "dlopen":
        ctypes.CDLL(library)
    else:
        print(json.dumps({"loaded": registry.load_library(library) is not None}), flush=True)
    describe_creators(trt, registry)
    reject_a_field(trt, registry)
    for operator, fields, phase in json.loads(layers):
        made = create(trt, registry, operator, fields, phase)
        facts = None if made is None else facts_of_plugin(trt, made)
        print(json.dumps({"layer": operator, "phase": phase, "facts": facts}), flush=True)


main(*sys.argv[1:])
