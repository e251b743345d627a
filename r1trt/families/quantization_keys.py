"""`quantization_config` in config.json: FP8 with block scales is read, everything else refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from r1trt.config import SCALE_BLOCK, SCALE_SUFFIXES, BlockFp8Config
from r1trt.config.quantization import PATTERN
from r1trt.families.keys import Keys

_KEY = "quantization_config"
_EXPECTED: Mapping[str, object] = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [SCALE_BLOCK, SCALE_BLOCK],
}
# What transformers assumes, and leaves out of files that it writes.
_OPTIONAL = ("fmt", "activation_scheme")
_COMPRESSED_TENSORS = "compressed-tensors"
_FORMAT = "float-quantized"
# As the package's schema names them; None is what it takes for a key that is not there.
_COMPRESSED: Mapping[str, tuple[object, ...]] = {
    "format": (_FORMAT, None),
    "quantization_status": ("compressed", "frozen", None),
    "kv_cache_scheme": (None,),
    "sparsity_config": (None, {}),
    "transform_config": (None, {}),
}
_GROUP: Mapping[str, tuple[object, ...]] = {"format": (_FORMAT, None), "output_activations": (None,)}
_GROUP_WEIGHTS: Mapping[str, tuple[object, ...]] = {
    "num_bits": (8,),
    "type": ("float",),
    "strategy": ("block",),
    "block_structure": ([SCALE_BLOCK, SCALE_BLOCK], f"{SCALE_BLOCK}x{SCALE_BLOCK}"),
    "symmetric": (True, None),
    "dynamic": (False, None),
    "actorder": (None,),
}
_GROUP_INPUTS: Mapping[str, tuple[object, ...]] = {
    "num_bits": (8,),
    "type": ("float",),
    "dynamic": (True, "local"),
    "symmetric": (True, None),
}
# A pattern from outside must not take for ever: no repeated group, few repetitions.
_PATTERN = re.compile(r"(?!.*\)[*+?{])(?!(.*[*+]){5})[\w.\\^$|():?*+\[\]-]{1,200}")


def block_fp8_config(keys: Keys) -> BlockFp8Config | None:
    """Reads how a checkpoint's weights are quantized; None where they are not.

    Raises:
        ConfigError: In another way than FP8 E4M3 with blocks of 128 x 128; lists every difference.
    """
    if not keys.has(_KEY):
        return None
    raw = keys.raw[_KEY]
    compressed = isinstance(raw, Mapping) and raw.get("quant_method") == _COMPRESSED_TENSORS
    if not isinstance(raw, Mapping):
        found = [repr(raw)[:200]]
    else:
        found = list(_compressed_differences(raw) if compressed else _differences(raw))
    if found:
        keys.refuse(
            "quantized checkpoints of this kind are not supported",
            found=f"{_KEY}: {', '.join(found)}",
            expected=_expected(compressed=compressed),
            fix="take the checkpoint's unquantized release; FP8 is chosen at build time",
        )
    if compressed:
        return BlockFp8Config(ignored=tuple(raw.get("ignore") or ()), scale_suffix=SCALE_SUFFIXES[1])
    return BlockFp8Config(left_out=tuple(raw.get("modules_to_not_convert") or ()))


def _expected(*, compressed: bool) -> str:
    block = f"[{SCALE_BLOCK}, {SCALE_BLOCK}]"
    if compressed:
        kind = f"format '{_FORMAT}', 8-bit weights of type 'float', strategy 'block', block_structure {block}"
    else:
        kind = (
            "quant_method 'fp8', fmt 'e4m3', activation_scheme 'dynamic', weight_block_size "
            f"{block}; or quant_method '{_COMPRESSED_TENSORS}' with the same blocks"
        )
    return f"{kind}; or BF16, FP16 or FP32 weights without the key"


def _differences(raw: Mapping[str, Any]) -> Iterator[str]:
    for key, expected in _EXPECTED.items():
        value = raw.get(key)
        if value != expected and not (value is None and key in _OPTIONAL):
            yield f"{key} {repr(value)[:80]}"
    names = raw.get("modules_to_not_convert") or []
    if not _are_names(names):
        yield f"modules_to_not_convert {repr(names)[:80]} is not a list of names"


def _compressed_differences(raw: Mapping[str, Any]) -> Iterator[str]:
    yield from _unlike(raw, _COMPRESSED, "")
    groups = raw.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        yield f"config_groups {repr(groups)[:80]}"
        groups = {}
    for name, group in groups.items():
        yield from _group_differences(group, f"config_groups.{str(name)[:40]}")
    ignored = raw.get("ignore") or []
    if not _are_names(ignored):
        yield f"ignore {repr(ignored)[:80]} is not a list of names"
        return
    for name in ignored:
        if name.startswith(PATTERN) and not _is_plain_pattern(name.removeprefix(PATTERN)):
            yield f"ignore {name[:80]!r} is a pattern that is not understood"


def _group_differences(group: Any, where: str) -> Iterator[str]:
    if not isinstance(group, Mapping):
        yield f"{where} {repr(group)[:80]}"
        return
    yield from _unlike(group, _GROUP, f"{where}.")
    weights, inputs = group.get("weights"), group.get("input_activations")
    if isinstance(weights, Mapping):
        yield from _unlike(weights, _GROUP_WEIGHTS, f"{where}.weights.")
    else:
        yield f"{where}.weights {repr(weights)[:80]}"
    if isinstance(inputs, Mapping):
        yield from _unlike(inputs, _GROUP_INPUTS, f"{where}.input_activations.")
    elif inputs is not None:
        yield f"{where}.input_activations {repr(inputs)[:80]}"


def _unlike(raw: Mapping[str, Any], expected: Mapping[str, tuple[object, ...]], prefix: str) -> Iterator[str]:
    for key, values in expected.items():
        if not any(raw.get(key) == value for value in values):
            yield f"{prefix}{key} {repr(raw.get(key))[:80]}"


def _are_names(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) and name for name in names)


def _is_plain_pattern(pattern: str) -> bool:
    if _PATTERN.fullmatch(pattern) is None:
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True
