"""The launch functions' parameter structs, read off the kernels' headers, never to fall behind them."""

from __future__ import annotations

import ctypes
import re
from typing import TYPE_CHECKING, Any

from r1trt.plugin_tools.sources import source_directory

TYPES: dict[str, Any] = {
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "float": ctypes.c_float,
    "bool": ctypes.c_bool,
    "size_t": ctypes.c_size_t,
}
KERNELS = source_directory() / "kernels"
FIELD = re.compile(
    r"^(?P<type>[\w ]+?)(?P<pointer>\s*\*)?\s*(?P<name>\w+)(?:\[(?P<count>\w+)\])?(?:\s*=.*)?$", re.DOTALL
)
CONSTANT = re.compile(r"constexpr int32_t (\w+) = (\d+);")

Fields = list[tuple[str, Any]]


def fields_from_header(header: str, struct: str, *, structs: dict[str, Any] | None = None) -> Fields:
    """The fields of a struct of numbers, pointers, enumerations, other structs and arrays, for `ctypes`.

    Args:
        header: The header, relative to the kernels' folder.
        struct: The struct's name in it.
        structs: Structs that it may have as fields, by their names.

    Raises:
        LookupError: There is no such struct, or it has a field of another kind.
    """
    text = re.sub(r"//[^\n]*", "", (KERNELS / header).read_text(encoding="utf-8"))
    body = re.search(rf"struct {struct} \{{(.*?)\n\}};", text, re.DOTALL)
    if body is None:
        raise LookupError(f"{header} declares no struct {struct}")
    declared = text + (KERNELS / "common" / "types.h").read_text(encoding="utf-8")
    enumerations = dict.fromkeys(re.findall(r"enum class (\w+) : int32_t", declared), ctypes.c_int32)
    types = {**TYPES, **enumerations, **(structs or {})}
    constants = {name: int(value) for name, value in CONSTANT.findall(text)}
    fields: Fields = []
    for declaration in filter(None, map(str.strip, body[1].split(";"))):
        match = FIELD.match(declaration)
        words = [] if match is None else [word for word in match["type"].split() if word != "const"]
        if match is None or not (match["pointer"] or words[0] in types):
            raise LookupError(f"{header}, {struct}: not a field: {declaration!r}")
        kind = ctypes.c_void_p if match["pointer"] else types[words[0]]
        fields.append((match["name"], kind * constants[match["count"]] if match["count"] else kind))
    return fields


class _Struct(ctypes.Structure):
    if TYPE_CHECKING:
        # The fields are those of the header, which a type checker does not read.
        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...


class Params(_Struct):
    """Parameters of one launch; `operator` is its name in the library."""

    operator: str


class RopeParams(Params):
    """Of R1DynamicRoPE."""

    operator = "dynamic_rope"
    _fields_ = fields_from_header("dynamic_rope/dynamic_rope.h", "DynamicRopeParams")


class AttentionParams(Params):
    """Of R1HLAAttention."""

    operator = "hla_attention"
    _fields_ = fields_from_header("hla_attention/hla_attention.h", "HlaAttentionParams")


class MoeWeight(_Struct):
    """Weights of a part of the experts, or of the shared one, and their scales."""

    _fields_ = fields_from_header("dynamic_moe/dynamic_moe.h", "MoeWeight")


class ExpertWeights(_Struct):
    """Weights of the experts, part by part."""

    _fields_ = fields_from_header(
        "dynamic_moe/dynamic_moe.h", "ExpertWeights", structs={"MoeWeight": MoeWeight}
    )

    @classmethod
    def of(cls, *parts: MoeWeight) -> ExpertWeights:
        """Of some parts; the kernels do not look at the others."""
        weights = cls()
        for index, part in enumerate(parts):
            weights.part[index] = part
        return weights


class MoeParams(Params):
    """Of R1DynamicMoE."""

    operator = "dynamic_moe"
    _fields_ = fields_from_header(
        "dynamic_moe/dynamic_moe.h",
        "DynamicMoeParams",
        structs={"MoeWeight": MoeWeight, "ExpertWeights": ExpertWeights},
    )


ALL_PARAMS = (RopeParams, AttentionParams, MoeParams)
