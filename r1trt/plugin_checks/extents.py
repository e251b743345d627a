"""Bytes behind every pointer of a launch's parameters, as the kernels' headers document them.

Buffers of exactly these sizes let compute-sanitizer see an access past their end.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from r1trt.ops.expert_parts import expert_parts
from r1trt.plugin_checks.cases.moe_cases import BLOCK_128, PER_CHANNEL, PER_TENSOR
from r1trt.plugin_checks.cases.params import Params

ELEMENT = {0: 4, 1: 2, 2: 2, 3: 1}  # bytes by DataType
FLOAT, INT64 = 4, 8
BLOCK = 128

FieldPath = tuple[str | int, ...]
"""Names of fields, and indices into arrays."""


def _rope(p: Any) -> dict[FieldPath, int]:
    row = p.batch * p.seq * p.head_dim * ELEMENT[p.data_type]
    return {
        ("q",): row * p.heads,
        ("k",): row * p.kv_heads,
        ("inv_freq",): p.rotary_dim // 2 * FLOAT,
        ("past_len",): p.batch * INT64,
        ("q_out",): row * p.heads,
        ("k_out",): row * p.kv_heads,
        ("key_cache",): p.batch * p.kv_heads * p.cache_capacity * p.head_dim * ELEMENT[p.data_type],
        ("seq_len",): p.batch * INT64,
    }


def _attention(p: Any) -> dict[FieldPath, int]:
    element = ELEMENT[p.data_type]
    tokens, slots = p.batch * p.seq, p.batch * p.kv_heads * p.cache_capacity
    return {
        ("q",): tokens * p.heads * p.qk_head_dim * element,
        ("k",): tokens * p.kv_heads * p.qk_head_dim * element,
        ("v",): tokens * p.kv_heads * p.v_head_dim * element,
        ("lam",): tokens * p.heads * FLOAT,
        ("past_len",): p.batch * INT64,
        ("seq_len",): p.batch * INT64,
        ("y",): tokens * p.heads * p.v_head_dim * element,
        ("key_cache",): slots * p.qk_head_dim * element,
        ("value_cache",): slots * p.v_head_dim * element,
    }


def _scales(layout: int, matrices: int, rows: int, columns: int) -> int:
    """How many scales weights [matrices, rows, columns] have."""
    if layout == PER_TENSOR:
        return matrices
    if layout == PER_CHANNEL:
        return matrices * rows
    if layout != BLOCK_128:
        raise LookupError(f"no scale layout {layout}")
    return matrices * -(-rows // BLOCK) * -(-columns // BLOCK)


def _moe(p: Any) -> dict[FieldPath, int]:
    tokens, element = p.batch * p.seq, ELEMENT[p.data_type]
    sizes: dict[FieldPath, int] = {
        ("x",): tokens * p.hidden * element,
        ("seq_len",): p.batch * INT64,
        ("w_router",): p.experts * p.hidden * FLOAT,
        ("router_bias",): p.experts * FLOAT,
        ("x_scale",): FLOAT,
        ("mid_scale",): FLOAT,
        ("y",): tokens * p.hidden * element,
    }

    def weight(path: FieldPath, matrices: int, rows: int, columns: int) -> None:
        sizes[*path, "data"] = matrices * rows * columns * ELEMENT[p.weight_type]
        sizes[*path, "scale"] = _scales(p.scale_layout, matrices, rows, columns) * FLOAT

    counts = [part.count for part in expert_parts(p.experts, p.expert_parts)]
    for index in range(len(p.gate_up.part)):
        count = counts[index] if index < len(counts) else 0
        weight(("gate_up", "part", index), count, 2 * p.width, p.hidden)
        weight(("down", "part", index), count, p.hidden, p.width)
    weight(("shared_gate_up",), 1, 2 * p.shared_width, p.hidden)
    weight(("shared_down",), 1, p.hidden, p.shared_width)
    return sizes


SIZES: dict[str, Callable[[Any], dict[FieldPath, int]]] = {
    "dynamic_rope": _rope,
    "hla_attention": _attention,
    "dynamic_moe": _moe,
}
# Handled by whoever launches.
WORKSPACE = ("workspace",)


def pointer(params: Any, path: FieldPath) -> int | None:
    """The address in a field; None for null."""
    return _at(params, path) or None


def set_pointer(params: Any, path: FieldPath, address: int) -> None:
    """Changes the address in a field."""
    *before, name = path
    setattr(_at(params, before), str(name), address)


def _at(params: Any, path: Sequence[str | int]) -> Any:
    for step in path:
        params = getattr(params, step) if isinstance(step, str) else params[step]
    return params


def pointer_paths(kind: type[ctypes.Structure]) -> list[FieldPath]:
    """Every pointer of a struct, in nested ones too."""
    found: list[FieldPath] = []
    for name, field, *_ in kind._fields_:
        if field is ctypes.c_void_p:
            found.append((name,))
        elif issubclass(field, ctypes.Structure):
            found += [(name, *path) for path in pointer_paths(field)]
        elif issubclass(field, ctypes.Array):
            element, count = _element_and_count(field)
            found += [(name, index, *path) for index in range(count) for path in pointer_paths(element)]
    return found


def _element_and_count(array: Any) -> tuple[type[ctypes.Structure], int]:
    return array._type_, array._length_


def extents(params: Params) -> dict[FieldPath, int]:
    """Bytes behind every pointer that is not null, but for the workspace.

    Raises:
        LookupError: The header has a pointer that this module knows nothing of.
    """
    sizes = SIZES[params.operator](params)
    unknown = set(pointer_paths(type(params))) - sizes.keys() - {WORKSPACE}
    if unknown:
        raise LookupError(f"{params.operator}: nothing is known of the size of {sorted(unknown)}")
    return {path: size for path, size in sizes.items() if pointer(params, path) is not None}
