"""RoPE as config.json spells it: `rope_parameters`, or the older `rope_scaling` beside `rope_theta`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from r1trt.config import RopeConfig, RopeKind
from r1trt.config.checks import require_number
from r1trt.config.rope import ROPE_OPTIONAL, ROPE_REQUIRED
from r1trt.families.keys import Keys

_OUTSIDE = ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
_MOST_CHARACTERS = 200


def rope_config(keys: Keys, head_dim: int) -> RopeConfig:
    """Reads the rotation of a model that rotates whole heads of `head_dim` elements.

    Raises:
        ConfigError: The keys are malformed or contradict each other, or ask for a part of every head.
    """
    kind, theta, factor, parameters = rope_keys(keys)
    if factor != 1:
        keys.refuse("partial_rotary_factor is out of range", found=factor, expected="1 in this architecture")
    return RopeConfig(kind=kind, theta=theta, rotary_dim=head_dim, parameters=parameters)


def rope_keys(keys: Keys) -> tuple[RopeKind, float, float, dict[str, Any]]:
    """Reads either spelling.

    Returns:
        Kind, theta, the rotated part of a head, and the kind's parameters with the lengths that it reads.

    Raises:
        ConfigError: The keys are malformed or contradict each other.
    """
    rope = _rope_object(keys)
    kinds = {rope.pop(key) for key in ("rope_type", "type") if isinstance(rope.get(key), str)}
    if len(kinds) > 1 or "rope_type" in rope or "type" in rope:
        keys.refuse("RoPE's type is not clear", found=_rope_object(keys), expected="one string 'rope_type'")
    kind = cast(RopeKind, next(iter(kinds), "default"))
    theta = agreed(keys, "rope_theta", rope.pop("rope_theta", None), 10000.0)
    factor = agreed(keys, "partial_rotary_factor", rope.pop("partial_rotary_factor", None), 1.0)
    require_number("rope_theta", theta, minimum=0, exclusive=True)
    require_number("partial_rotary_factor", factor, minimum=0, exclusive=True)
    _drop_ignored(keys, kind, rope)
    _add_lengths(keys, kind, rope)
    return kind, float(theta), float(factor), rope


def _drop_ignored(keys: Keys, kind: str, rope: dict[str, Any]) -> None:
    """Drops what this kind of RoPE does not have; transformers warns of it, and computes the same."""
    known = {*ROPE_REQUIRED.get(kind, rope), *ROPE_OPTIONAL.get(kind, ())}
    if ignored := sorted(rope.keys() - known):
        names = ", ".join(ignored)[:_MOST_CHARACTERS]
        keys.note(f"RoPE of type '{kind}' does not have {names}: ignored, as in transformers.")
        for name in ignored:
            del rope[name]


def agreed(keys: Keys, key: str, inside: Any, default: Any) -> Any:
    """The value inside the RoPE object or at the top level; refuses two different ones."""
    outside = keys.raw.get(key)
    if inside is not None and outside is not None and inside != outside:
        keys.refuse(f"'{key}' is given twice", found=f"{inside!r} and {outside!r}", expected="one value")
    return next((value for value in (inside, outside) if value is not None), default)


def _rope_object(keys: Keys) -> dict[str, Any]:
    found = {key: keys.raw[key] for key in ("rope_scaling", "rope_parameters") if keys.raw.get(key)}
    for key, value in found.items():
        if not isinstance(value, Mapping):
            keys.refuse(f"{key} is not an object", found=repr(value), expected="an object or null")
        if any(isinstance(entry, Mapping) for entry in value.values()):
            keys.refuse(f"{key} differs between layers", found=sorted(map(str, value)), expected="one RoPE")
    if len(found) == 2 and _meaning(keys, found["rope_scaling"]) != _meaning(keys, found["rope_parameters"]):
        keys.refuse("rope_scaling contradicts rope_parameters", found=found, expected="one of them")
    return dict(next(iter(found.values()), {}))


def _meaning(keys: Keys, rope: Mapping[str, Any]) -> dict[str, Any]:
    """A RoPE object in one spelling: the older one has its type in `type`, and theta outside."""
    inherited = {name: keys.raw[name] for name in _OUTSIDE if keys.has(name)}
    kind = rope.get("rope_type", rope.get("type"))
    rest = {name: value for name, value in rope.items() if name != "type" and value is not None}
    return {**inherited, **rest, "rope_type": kind}


def _add_lengths(keys: Keys, kind: str, rope: dict[str, Any]) -> None:
    """Adds to the RoPE object the context lengths that its kind reads from the top level."""
    length = keys.integer("max_position_embeddings")
    original = "original_max_position_embeddings"
    if original in ROPE_REQUIRED.get(kind, ()):
        rope[original] = agreed(keys, original, rope.get(original), length)
    if "max_position_embeddings" in ROPE_OPTIONAL.get(kind, ()):
        inside = rope.get("max_position_embeddings")
        rope["max_position_embeddings"] = agreed(keys, "max_position_embeddings", inside, length)
