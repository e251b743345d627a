"""The launch functions' parameter structs, read off the kernels' headers, never to fall behind them."""

from __future__ import annotations

import ctypes
import re
from functools import cache
from typing import Any

from kernels.build import KERNELS

TYPES: dict[str, Any] = {
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "float": ctypes.c_float,
    "bool": ctypes.c_bool,
    "size_t": ctypes.c_size_t,
}
FIELD = re.compile(r"^(?P<type>[\w ]+?)(?P<pointer>\s*\*)?\s*(?P<name>\w+)(?:\s*=.*)?$", re.DOTALL)


def _body(header: str, struct: str) -> str:
    text = re.sub(r"//[^\n]*", "", (KERNELS / header).read_text())
    match = re.search(rf"struct {struct} \{{(.*?)\n\}};", text, re.DOTALL)
    if match is None:
        raise LookupError(f"{header} declares no struct {struct}")
    return match[1]


def _ctype(header: str, name: str) -> Any:
    if name in TYPES:
        return TYPES[name]
    text = (KERNELS / header).read_text() + (KERNELS / "common" / "types.h").read_text()
    if f"enum class {name} : int32_t" in text:
        return ctypes.c_int32
    return struct_from_header(header, name)


@cache
def struct_from_header(header: str, name: str) -> type[ctypes.Structure]:
    """A struct of plain numbers, pointers, enumerations and such structs, as `ctypes` has it."""
    fields = []
    for declaration in filter(None, map(str.strip, _body(header, name).split(";"))):
        match = FIELD.match(declaration)
        if match is None:
            raise LookupError(f"{header}, {name}: not a field: {declaration!r}")
        words = [word for word in match["type"].split() if word != "const"]
        fields.append((match["name"], ctypes.c_void_p if match["pointer"] else _ctype(header, words[0])))
    return type(name, (ctypes.Structure,), {"_fields_": fields})


class Params(ctypes.Structure):
    """Parameters of one launch; `operator` is its name in the library."""

    operator: str


def _params(operator: str, name: str) -> type[Params]:
    struct = struct_from_header(f"{operator}/{operator}.h", name)
    return type(name, (Params,), {"operator": operator, "_fields_": struct._fields_})


RopeParams = _params("dynamic_rope", "DynamicRopeParams")
AttentionParams = _params("hla_attention", "HlaAttentionParams")
MoeParams = _params("dynamic_moe", "DynamicMoeParams")
MoeWeight = dict(MoeParams._fields_)["gate_up"]  # type: ignore[arg-type, misc]
ALL_PARAMS = (RopeParams, AttentionParams, MoeParams)
