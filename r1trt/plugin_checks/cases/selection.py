"""The cases that run on a GPU: the tests' own, and larger ones that only a GPU is fast enough for."""

from __future__ import annotations

from dataclasses import field, fields, make_dataclass, replace
from typing import Any

from r1trt.plugin_checks.cases.arrays import FLOAT8_E4M3, FLOAT16
from r1trt.plugin_checks.cases.attention_cases import ALL_TO_FIRST, AttentionCase
from r1trt.plugin_checks.cases.case import Case
from r1trt.plugin_checks.cases.moe_cases import (
    BLOCK_128,
    GROUP_TWO_HIGHEST,
    PER_CHANNEL,
    WEIGHT_ONLY,
    MoeCase,
)
from r1trt.plugin_checks.cases.operators import OPERATORS, OperatorUnderTest
from r1trt.plugin_checks.cases.rope_cases import RopeCase

HOST_CASES = 2  # of each operator, on the CPU
ASK_DEVICE = 0

_LARGE: dict[str, Any] = {"heads": 4, "qk": 128, "v": 128}
_DECODE: dict[str, Any] = {"heads": 8, "kv_heads": 2, "qk": 128, "v": 128}
_LATENT: dict[str, Any] = {"qk": 576, "v": 512, "lam": "none"}
_LATENT_HALF: dict[str, Any] = {"data_type": FLOAT16, **_LATENT}
_FP8: dict[str, Any] = {"weight_type": FLOAT8_E4M3, "hidden": 1024, "width": 512}
LARGER: dict[str, list[Any]] = {
    "rope": [
        RopeCase(seq=4096, heads=32, kv_heads=8, head_dim=128, rotary_dim=128, alpha=0.1, original=2048),
    ],
    "attention": [
        AttentionCase(seq=2048, lam="zeros", inter_block=ALL_TO_FIRST, **_LARGE),
        AttentionCase(seq=2048, lam="heads", inter_block=ALL_TO_FIRST, **_LARGE),
        AttentionCase(seq=2048, lam="random", inter_block=ALL_TO_FIRST, **_LARGE),
        AttentionCase(seq=2047, lam="none", cached=False, **_LARGE),
        AttentionCase(seq=1500, lam="zeros", data_type=FLOAT16, **_LARGE),
        AttentionCase(seq=700, past=(1300,), room=48, inter_block=ALL_TO_FIRST, **_LARGE),
        AttentionCase(seq=300, batch=3, past=(0, 45, 900), lengths=(300, 129, 7), lam="random", **_LARGE),
        AttentionCase(seq=700, lam="heads", heads=8, kv_heads=2, qk=64, v=64, data_type=FLOAT16),
        AttentionCase(seq=600, past=(77,), lam="random", heads=4, kv_heads=4, qk=192, v=128),
        # The block branch by tiles of rows and heads: few thread blocks with many tiles, several tiles of
        # first tokens, blocks of sizes around a tile's, caches that end within a block or in front of rows.
        AttentionCase(seq=700, lam="zeros", inter_block=ALL_TO_FIRST, heads=8, kv_heads=2, qk=64, v=64,
            num_sms=3),
        AttentionCase(seq=700, lam="random", heads=8, kv_heads=2, qk=128, v=128, num_sms=3, past=(45,)),
        AttentionCase(seq=900, lam="heads", inter_block=ALL_TO_FIRST, heads=12, kv_heads=4, qk=128, v=128,
            num_sms=5, data_type=FLOAT16),
        AttentionCase(seq=400, past=(19,), inter_block=ALL_TO_FIRST, heads=3, kv_heads=3, qk=192, v=128,
            num_sms=2, data_type=FLOAT16),
        AttentionCase(seq=200, past=(9001,), lam="zeros", inter_block=ALL_TO_FIRST, room=13, **_LARGE),
        AttentionCase(seq=200, past=(13000,), inter_block=ALL_TO_FIRST, heads=2, kv_heads=2, qk=64, v=64),
        AttentionCase(seq=300, past=(100,), inter_block=ALL_TO_FIRST, room=-37, data_type=FLOAT16, heads=4,
            kv_heads=2, qk=128, v=128),
        AttentionCase(seq=300, past=(100,), room=-290, lam="zeros", inter_block=ALL_TO_FIRST, **_LARGE),
        AttentionCase(seq=300, past=(100,), room=-14, heads=8, kv_heads=2, qk=192, v=128),
        AttentionCase(seq=300, batch=4, past=(0, 45, 900, 31), lengths=(300, 129, 0, 64), room=5,
            inter_block=ALL_TO_FIRST, heads=16, kv_heads=2, qk=128, v=128, num_sms=7),
        AttentionCase(seq=500, batch=2, cached=False, lam="zeros", inter_block=ALL_TO_FIRST,
            lengths=(500, 321), heads=8, kv_heads=2, qk=128, v=128),
        AttentionCase(seq=501, batch=3, cached=False, lengths=(501, 64, 1), heads=4, kv_heads=4, qk=192,
            v=128, data_type=FLOAT16),
        *(
            AttentionCase(seq=330, block=block, past=(77,), inter_block=ALL_TO_FIRST, heads=8, room=11)
            for block in (1, 7, 16, 48, 64, 128, 256, 1000)
        ),
        AttentionCase(seq=330, block=16, past=(77,), heads=8, kv_heads=2, qk=128, v=128),
        AttentionCase(seq=500, lam="ones", inter_block=ALL_TO_FIRST, heads=8, kv_heads=2, qk=128, v=128),
        AttentionCase(seq=500, lam_skip=0.4, inter_block=ALL_TO_FIRST, heads=8, kv_heads=2, qk=128, v=128),
        AttentionCase(seq=200, batch=3, past=(50, -3, 0), lengths=(200, 200, 77), lam="none", **_LARGE),
        AttentionCase(seq=1, batch=4, past=(8191, 5000, 31, 0), **_DECODE),
        AttentionCase(seq=1, past=(30000,), lam="zeros", inter_block=ALL_TO_FIRST, **_DECODE),
        # Latents: lengths at and beside a tile's end, one to many tiles of a split, splits without any.
        AttentionCase(seq=1, batch=4, heads=128, past=(0, 62, 63, 64), room=30, **_LATENT),
        AttentionCase(seq=1, batch=3, heads=128, past=(1150, 17, 800), room=5, **_LATENT),
        AttentionCase(seq=1, batch=5, heads=16, past=(900, 0, 127, 128, 129), room=77, **_LATENT),
        *(AttentionCase(seq=1, heads=128, past=(past,), num_sms=1, **_LATENT) for past in (127, 191, 700)),
        AttentionCase(seq=1, batch=2, heads=2, past=(20000, 19999), scale=0.07, **_LATENT_HALF),
        # Rows of more than one token in a tile, padding, a full cache, rows that are nowhere, no cache.
        AttentionCase(seq=2, batch=3, heads=128, past=(300, 63, 0), lengths=(2, 1, 0), room=9, **_LATENT),
        AttentionCase(seq=3, batch=2, heads=16, past=(700, 61), room=1, **_LATENT_HALF),
        AttentionCase(seq=4, batch=3, heads=24, past=(126, 300, 62), lengths=(4, 2, 3), **_LATENT),
        AttentionCase(seq=4, batch=2, heads=40, past=(126, 300), room=-3, **_LATENT_HALF),
        AttentionCase(seq=2, batch=3, heads=16, past=(-1, 200, 2**40), write_keys=False, **_LATENT),
        AttentionCase(seq=300, heads=16, past=(77,), room=12, **_LATENT),
        AttentionCase(seq=70, batch=2, heads=20, cached=False, lengths=(70, 33), **_LATENT_HALF),
    ],
    "moe": [
        *(MoeCase(seq=seq, hidden=1024, width=512) for seq in (1, 16, 1000)),
        *(MoeCase(seq=seq, **_FP8) for seq in (1, 1000)),
        *(MoeCase(seq=seq, layout=BLOCK_128, shared_width=512, **_FP8) for seq in (1, 17, 1000)),
        MoeCase(seq=500, layout=PER_CHANNEL, static=True, data_type=FLOAT16, **_FP8),
        MoeCase(seq=500, layout=BLOCK_128, math=WEIGHT_ONLY, **_FP8),
        # Tiles of many rows and of few, experts without any, weights in parts.
        MoeCase(seq=2100, experts=4, hidden=512, width=256),
        MoeCase(seq=2100, experts=4, hidden=512, width=256, data_type=FLOAT16),
        MoeCase(seq=2100, experts=4, parts=3, layout=BLOCK_128, **_FP8),
        MoeCase(seq=1100, routing="few_experts", layout=BLOCK_128, **_FP8),
        MoeCase(seq=300, experts=7, parts=2, routing="few_experts", hidden=1008, width=400),
        MoeCase(
            seq=700, experts=256, hidden=256, width=128, sigmoid=True, method=GROUP_TWO_HIGHEST, n_group=8,
            topk_group=4, top_k=8, scaling=2.5, threshold=0.8, top_k_min=2,
        ),
    ],
}  # fmt: skip


_seeded_types: dict[type[Case], Any] = {}


def _seeded_type(kind: type[Case]) -> Any:
    if kind in _seeded_types:
        return _seeded_types[kind]
    # The case's name follows from its fields, and its random numbers from the name.
    seed = ("draw", int, field(default=-1))
    made = make_dataclass(kind.__name__, [seed], bases=(kind,), frozen=True, kw_only=True)
    return _seeded_types.setdefault(kind, made)


def drawn(case: Case, seed: int) -> Case:
    """The case with tensors that follow from a seed."""
    values = {item.name: getattr(case, item.name) for item in fields(case)}
    made: Case = _seeded_type(type(case))(**values, draw=seed)
    return made


def fitted(case: Any, sm: int, *, on_gpu: bool) -> Case:
    """The case for a GPU: its own architecture where the case names the newest that the tests know."""
    changes: dict[str, int] = {}
    if hasattr(case, "sm"):
        newest = type(case).__dataclass_fields__["sm"].default
        changes["sm"] = sm if case.sm == newest else min(case.sm, sm)
    if (
        on_gpu
        and hasattr(case, "num_sms")
        and case.num_sms == type(case).__dataclass_fields__["num_sms"].default
    ):
        changes["num_sms"] = ASK_DEVICE
    made: Case = replace(case, **changes)
    return made


def cases_of(name: str, *, on_gpu: bool, quick: bool) -> list[Any]:
    """An operator's cases."""
    operator: OperatorUnderTest = OPERATORS[name]
    if not on_gpu:
        return sorted(operator.quick, key=lambda case: case.cost)[-HOST_CASES:]
    return operator.quick if quick else [*operator.cases, *LARGER[name]]
