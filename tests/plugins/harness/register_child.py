"""Loads the plugin library with dlopen alone, in a process that holds a plugin registry of the named version.

Arguments: harness, plugin library, a copy of it, version. Prints, as JSON, the names that are registered
after loading the library, after loading the copy, and after a registry has asked for the library's creators.
"""

import ctypes
import json
import sys
from pathlib import Path

from r1trt.plugin_checks.harness.driver import Harness


def main(harness_path: str, library_path: str, copy_path: str, version: str) -> None:
    harness = Harness(Path(harness_path), symbols_are_global=True)
    harness.set_version(int(version))
    registered = []
    library = ctypes.CDLL(library_path)
    registered.append(harness.registered())
    ctypes.CDLL(copy_path)
    registered.append(harness.registered())
    library.getCreators(ctypes.byref(ctypes.c_int32()))
    registered.append(harness.registered())
    print(json.dumps(registered))


main(*sys.argv[1:])
