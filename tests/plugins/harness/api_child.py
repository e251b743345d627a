"""Looks up names in the Python module of TensorRT 11.4, or of TensorRT-RTX: `MODULE SCRATCH`, names on stdin.

Prints, as JSON, by name: null where there is no such name, else its help (for a member of an enum: "").
"""

import importlib
import json
import sys
from functools import reduce
from pathlib import Path
from typing import Any

from harness.genuine_tensorrt import full_module, genuine_tensorrt


def found(module: Any, name: str) -> str | None:
    try:
        value = reduce(getattr, name.split("."), module)
    except AttributeError:
        return None
    return getattr(value, "__doc__", None) or ""


def main(which: str, scratch: str) -> None:
    names = json.load(sys.stdin)
    if which == "tensorrt":
        module = full_module(genuine_tensorrt(), Path(scratch))
    else:
        module = importlib.import_module(which)
    print(json.dumps({name: found(module, name) for name in names}))


main(*sys.argv[1:])
