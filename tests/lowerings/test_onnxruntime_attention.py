"""R1HLAAttention's body for ONNX Runtime against its definition in FP64, call after call into one cache."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray

from r1trt.graph.domain import DOMAIN, DOMAIN_VERSION, IR_VERSION, OPSET
from r1trt.lowerings.bodies import set_bodies
from r1trt.lowerings.onnxruntime import full
from r1trt.ops.hla_attention import HLA_ATTENTION
from r1trt.plugin_checks.harness import reference

Array = NDArray[Any]
FLOAT, INT64 = ir.DataType.FLOAT, ir.DataType.INT64
# FP32 sums of a hundred terms against FP64; a wrong mask, row or position shows as 1e-2 or more.
TOLERANCE = 3e-5
# FP16 rounds a held number by 2^-11 of itself at most. What is compared with has its keys and values rounded
# likewise before it attends in FP64, so that the same tolerance is left.
HALF = np.float16
ROWS, CAPACITY, HEAD = 3, 203, 8
# Tokens of a call, and how many of them are real in each row.
CALLS = [
    (70, (70, 33, 1)),
    (40, (40, 0, 40)),
    (9, (9, 9, 9)),
    (1, (1, 1, 1)),
    (33, (1, 33, 32)),
    (8, (8, 3, 0)),
    (1, (1, 0, 1)),
    (12, (0, 0, 0)),
]


@dataclass(frozen=True)
class Case:
    """One attention; `lam` says how it is spread over pairs of token and head."""

    name: str
    heads: int = 4
    kv_heads: int = 2
    value: int = HEAD
    block_size: int = 16
    inter_block: int = 0
    lam_skip: float = 0.0
    lam: str | None = "fifth"
    latent: bool = False
    cache: bool = True
    held: type = np.float32

    @property
    def attributes(self) -> dict[str, Any]:
        return {
            "scale": 0.3,
            "block_size": self.block_size,
            "inter_block": self.inter_block,
            "lam_skip": self.lam_skip,
            "v_head_dim": self.value,
        }


BASE = Case("fifth")
CASES = [
    BASE,
    replace(BASE, name="skip", lam_skip=0.3, lam="between"),
    replace(BASE, name="between", lam="between"),
    replace(BASE, name="one", lam="one"),
    replace(BASE, name="zero", lam="zero"),
    replace(BASE, name="by_head", lam="by_head"),
    replace(BASE, name="by_row", lam="by_row"),
    replace(BASE, name="all_to_first", inter_block=1),
    replace(BASE, name="odd_blocks", block_size=7),
    replace(BASE, name="odd_blocks_all_to_first", block_size=7, inter_block=1),
    replace(BASE, name="one_key_head", kv_heads=1),
    replace(BASE, name="no_groups", kv_heads=4),
    replace(BASE, name="no_gate", lam=None),
    replace(BASE, name="latent", kv_heads=1, value=6, lam=None, latent=True),
    *(
        replace(BASE, name=f"half_{name}", held=HALF, **changes)
        for name, changes in {
            "fifth": {},
            "zero": {"lam": "zero"},
            "one": {"lam": "one"},
            "all_to_first": {"inter_block": 1},
            "odd_blocks": {"block_size": 7},
            "no_gate": {"lam": None},
            "latent": {"kv_heads": 1, "value": 6, "lam": None, "latent": True},
        }.items()
    ),
    replace(BASE, name="scoring", cache=False),
    replace(BASE, name="scoring_no_gate", cache=False, lam=None),
]


def lam_of(case: Case, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    uniform = random.random(shape)
    spread = {
        "fifth": np.where(uniform < 0.2, 0.3 + uniform, 0.0),
        "between": uniform,
        "one": np.ones(shape),
        "zero": np.zeros(shape),
        "by_head": np.broadcast_to(np.arange(shape[2]) == 3, shape),
        "by_row": np.broadcast_to((np.arange(shape[0]) == 1)[:, None, None], shape),
    }
    return spread[case.lam or "one"].astype(np.float32)


def session_of(case: Case) -> onnxruntime.InferenceSession:
    """A graph of one node."""
    width, held = case.kv_heads, ["B", case.kv_heads, CAPACITY]
    shapes = {
        "q": ["B", "S", case.heads, HEAD],
        "k": ["B", "S", width, HEAD],
        "v": None if case.latent else ["B", "S", width, case.value],
        "key_cache": [*held, HEAD] if case.cache else None,
        "value_cache": [*held, case.value] if case.cache and not case.latent else None,
        "lam": ["B", "S", case.heads] if case.lam else None,
        "past_len": ["B"],
        "seq_len": ["B"],
    }
    inputs = [shape and _value(name, shape, case.held) for name, shape in shapes.items()]
    outputs = [_value("y", ["B", "S", case.heads, case.value])]
    outputs += [
        _value(f"{name}_out", shape, case.held)
        for name in ("key_cache", "value_cache")
        if (shape := shapes[name])
    ]
    node = ir.node(
        HLA_ATTENTION.name, inputs, case.attributes, domain=DOMAIN, outputs=outputs, name="layer.attention"
    )
    opsets = {"": OPSET, DOMAIN: DOMAIN_VERSION}
    present = [value for value in inputs if value is not None]
    graph = ir.Graph(present, outputs, nodes=[node], name="g", opset_imports=opsets)
    model = ir.Model(graph, ir_version=IR_VERSION)
    set_bodies(model, "onnxruntime")
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def _value(name: str, shape: list[int | str], held: type = np.float32) -> ir.Value:
    dtype = INT64 if name in ("past_len", "seq_len") else FLOAT
    if "cache" in name:
        dtype = ir.DataType.from_numpy(np.dtype(held))
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def check(case: Case) -> None:
    """Every call of `CALLS`; what a call leaves in the caches is what the next one gets."""
    random = np.random.default_rng(5)
    session = session_of(case)
    names = [value.name for value in session.get_inputs()]
    past = np.zeros(ROWS, np.int64)
    caches = {n: np.zeros((ROWS, case.kv_heads, CAPACITY, HEAD), case.held) for n in names if "cache" in n}
    for tokens, real in CALLS:
        shape = (ROWS, tokens)
        tensors = {
            "q": random.standard_normal((*shape, case.heads, HEAD)).astype(np.float32),
            "k": random.standard_normal((*shape, case.kv_heads, HEAD)).astype(np.float32),
            "v": random.standard_normal((*shape, case.kv_heads, case.value)).astype(np.float32),
            "past_len": past if case.cache else np.zeros_like(past),
            "seq_len": np.array(real, np.int64),
            **caches,
        }
        if case.lam:
            tensors["lam"] = lam_of(case, (*shape, case.heads), random)
        made = session.run(None, {name: tensors[name] for name in names})
        y, *_ = reference.attention(_whole(case, tensors), case.attributes)
        for row, count in enumerate(real):
            error = np.abs(made[0][row, :count] - y[row, :count])
            assert error.max(initial=0) < TOLERANCE, (case, tokens, row, error.max())
        caches = dict(zip(caches, made[1:], strict=True))
        past = past + np.array(real)


def _whole(case: Case, tensors: dict[str, Array]) -> dict[str, Array]:
    """With keys and values rounded as they are held, and with the values that latent keys are."""
    tensors = tensors | {
        name: tensors[name].astype(case.held).astype(np.float32)
        for name in ("k", "v", "key_cache", "value_cache")
        if name in tensors
    }
    if not case.latent:
        return tensors
    values = {"v": tensors["k"], "value_cache": tensors["key_cache"]}
    return {**tensors, **{name: array[..., : case.value] for name, array in values.items()}}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_calls_match_the_definition(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("rows", [1, 5, 64])
def test_tiles_of_any_size_give_the_same(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full, "TILE_SCORES", 1)
    monkeypatch.setattr(full, "TILE_ROWS", rows)
    check(BASE)
    check(replace(BASE, name="one", lam="one"))
