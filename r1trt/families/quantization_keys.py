"""`quantization_config` in config.json: FP8 with block scales is read, everything else refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from r1trt.config import SCALE_BLOCK, BlockFp8Config
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


def block_fp8_config(keys: Keys) -> BlockFp8Config | None:
    """Reads how a checkpoint's weights are quantized; None where they are not.

    Raises:
        ConfigError: In another way than FP8 E4M3 with blocks of 128 x 128; lists every difference.
    """
    if not keys.has(_KEY):
        return None
    raw = keys.raw[_KEY]
    found = list(_differences(raw)) if isinstance(raw, Mapping) else [repr(raw)[:200]]
    if found:
        keys.refuse(
            "quantized checkpoints of this kind are not supported",
            found=f"{_KEY}: {', '.join(found)}",
            expected="quant_method 'fp8', fmt 'e4m3', activation_scheme 'dynamic', weight_block_size "
            f"[{SCALE_BLOCK}, {SCALE_BLOCK}]; or BF16, FP16 or FP32 weights without the key",
            fix="take the checkpoint's unquantized release; FP8 is chosen at build time",
        )
    return BlockFp8Config(left_out=tuple(raw.get("modules_to_not_convert") or ()))


def _differences(raw: Mapping[str, Any]) -> Iterator[str]:
    for key, expected in _EXPECTED.items():
        value = raw.get(key)
        if value != expected and not (value is None and key in _OPTIONAL):
            yield f"{key} {repr(value)[:80]}"
    names = raw.get("modules_to_not_convert") or []
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        yield f"modules_to_not_convert {repr(names)[:80]} is not a list of names"
