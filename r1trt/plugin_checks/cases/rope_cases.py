"""R1DynamicRoPE: cases, reference in FP64, comparison."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from r1trt.plugin_checks.cases.arrays import (
    BFLOAT16,
    DTYPES,
    FLOAT16,
    FLOAT32,
    ROUNDING,
    address,
    aligned,
    aligned_copy,
)
from r1trt.plugin_checks.cases.case import Case, require, require_distinct
from r1trt.plugin_checks.cases.library import KernelLibrary
from r1trt.plugin_checks.cases.params import RopeParams

SENTINEL = 7.0  # what the cache holds where nobody should write
# FP32's sines, the angle's reduction and the sum of two products: of the largest element of all.
OF_LARGEST = 1e-6

Outputs = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class RopeCase(Case):
    """One call."""

    batch: int = 1
    seq: int = 33
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    rotary_dim: int = 64
    interleaved: bool = False
    data_type: int = BFLOAT16
    attention_factor: float = 1.0
    alpha: float = 0.0
    original: int = 0
    past: tuple[int, ...] = (0,)
    cache: str = "none"  # none, beside the output, or instead of it
    room: int = 16  # slots of the cache beyond the longest row
    lengths: tuple[int, ...] = ()
    in_place: bool = False

    @property
    def past_B(self) -> np.ndarray:
        """Tokens before this call."""
        return np.resize(np.array(self.past, np.int64), self.batch)

    @property
    def capacity(self) -> int:
        """Slots of the cache; with a negative `room` some rows do not fit."""
        return 0 if self.cache == "none" else int(self.past_B.max()) + self.seq + self.room

    @property
    def cost(self) -> int:
        """Elements to rotate."""
        return self.batch * self.seq * (self.heads + self.kv_heads) * self.head_dim


TOKENS = (1, 31, 32, 33, 127)
CASES = [
    *(RopeCase(seq=seq, past=(77,)) for seq in TOKENS),
    *(RopeCase(seq=seq, heads=2, kv_heads=1, interleaved=True, data_type=FLOAT16) for seq in TOKENS),
    RopeCase(seq=1000, heads=2, kv_heads=1, original=256, alpha=0.1),
    RopeCase(batch=3, seq=5, past=(0, 7, 100_000), interleaved=True, alpha=0.1, original=64),
    RopeCase(
        batch=3, seq=5, past=(0, 7, 131_000), data_type=FLOAT32, alpha=0.1, original=4096,
        head_dim=128, rotary_dim=128,
    ),
    RopeCase(batch=2, seq=3, past=(14, 15), data_type=FLOAT32, alpha=0.3, original=16),
    RopeCase(seq=9, head_dim=128, rotary_dim=128, past=(5,), data_type=FLOAT16),
    RopeCase(seq=9, head_dim=192, rotary_dim=64, attention_factor=1.1, data_type=FLOAT16),
    RopeCase(seq=9, head_dim=192, rotary_dim=64, interleaved=True, data_type=FLOAT32),
    RopeCase(seq=5, heads=3, kv_heads=1, head_dim=576, rotary_dim=64, interleaved=True),
    RopeCase(seq=9, head_dim=20, rotary_dim=6),
    RopeCase(seq=9, head_dim=20, rotary_dim=10, interleaved=True, data_type=FLOAT16),
    RopeCase(seq=600, heads=1, kv_heads=1, in_place=True),
    # More of a token than its threads take at once.
    RopeCase(seq=520, heads=40, kv_heads=2, head_dim=128, rotary_dim=128, in_place=True),
    RopeCase(seq=520, heads=20, kv_heads=4, head_dim=96, rotary_dim=32, interleaved=True, data_type=FLOAT32),
    RopeCase(batch=3, seq=17, past=(0, 3, 20), cache="beside", original=8, alpha=0.2, lengths=(17, 0, 5)),
    RopeCase(
        batch=3, seq=17, past=(0, 3, 15), cache="instead", head_dim=128, rotary_dim=64,
        interleaved=True, lengths=(3, 16, 17),
    ),
    RopeCase(batch=2, seq=9, past=(4, 30), cache="instead", room=-3, data_type=FLOAT16),
    RopeCase(batch=2, seq=40, past=(4, 30), cache="beside", room=0, heads=8, kv_heads=1),
    RopeCase(seq=4, heads=16, kv_heads=0, head_dim=128, rotary_dim=128),
]  # fmt: skip
require_distinct(CASES)


@dataclass
class Problem:
    """A case's tensors."""

    q: np.ndarray
    k: np.ndarray
    inv_freq: np.ndarray
    past: np.ndarray
    seq_len: np.ndarray
    cache: np.ndarray


def make_problem(case: RopeCase) -> Problem:
    """Draws the tensors."""
    rng, dtype = case.generator(), DTYPES[case.data_type]

    def tensor(heads: int) -> np.ndarray:
        shape = (case.batch, case.seq, heads, case.head_dim)
        return aligned_copy(rng.standard_normal(shape).astype(dtype))

    exponent = -np.arange(0, case.rotary_dim, 2) / case.rotary_dim
    cache = np.full((case.batch, case.kv_heads, case.capacity, case.head_dim), SENTINEL)
    return Problem(
        q=tensor(case.heads), k=tensor(case.kv_heads), cache=aligned_copy(cache.astype(dtype)),
        inv_freq=aligned_copy((10000.0**exponent).astype(np.float32)), past=aligned_copy(case.past_B),
        seq_len=aligned_copy(np.array(case.lengths or [case.seq] * case.batch, np.int64)),
    )  # fmt: skip


def rotated(case: RopeCase, x: np.ndarray, p: Problem) -> np.ndarray:
    """Rotates x [B, S, N, d] in FP64."""
    x, r = x.astype(np.float64), case.rotary_dim
    position = p.past[:, None] + np.arange(case.seq)
    angle = position[..., None, None].astype(np.float64) * p.inv_freq.astype(np.float64)
    factor = np.full(angle.shape, np.float64(np.float32(case.attention_factor)))
    if case.original:
        past = np.maximum(position / case.original, 1)[..., None, None]
        factor = factor * (1 + np.float64(np.float32(case.alpha)) * np.log(past))
    cos, sin, out = np.cos(angle) * factor, np.sin(angle) * factor, x.copy()
    first, second = (
        (np.s_[..., 0:r:2], np.s_[..., 1:r:2])
        if case.interleaved
        else (np.s_[..., : r // 2], np.s_[..., r // 2 : r])
    )
    out[first] = x[first] * cos - x[second] * sin
    out[second] = x[second] * cos + x[first] * sin
    return out


def reference(case: RopeCase, p: Problem) -> Outputs:
    """The outputs in FP64."""
    want = {"q_out": rotated(case, p.q, p), "k_out": rotated(case, p.k, p)}
    cache = np.full(p.cache.shape, SENTINEL)
    for b in range(case.batch):
        for s in range(min(int(p.seq_len[b]), case.capacity - int(p.past[b]))):
            cache[b, :, p.past[b] + s] = want["k_out"][b, s]
    if case.cache != "none":
        want["key_cache"] = cache
    if case.cache == "instead":
        del want["k_out"]
    return want


def compute(library: KernelLibrary, case: RopeCase) -> Outputs:
    """Runs the kernels on the case's tensors."""
    p = make_problem(case)
    outputs = {"q_out": p.q, "k_out": p.k} if case.in_place else {"q_out": aligned(p.q.shape, p.q.dtype)}
    if not case.in_place and case.cache != "instead":
        outputs["k_out"] = aligned(p.k.shape, p.k.dtype)
    if not case.in_place:
        for output in outputs.values():
            output[...] = np.nan
    params = library.params(
        RopeParams, data_type=case.data_type, batch=case.batch, seq=case.seq, heads=case.heads,
        kv_heads=case.kv_heads, head_dim=case.head_dim, rotary_dim=case.rotary_dim,
        interleaved=case.interleaved,
        attention_factor=case.attention_factor, temperature_alpha=case.alpha,
        original_max_position=case.original,
        q=address(p.q), k=address(p.k), inv_freq=address(p.inv_freq), past_len=address(p.past),
        q_out=address(outputs["q_out"]), k_out=address(outputs.get("k_out")),
    )  # fmt: skip
    if case.cache != "none":
        params.key_cache, params.seq_len, params.cache_capacity = (
            address(p.cache),
            address(p.seq_len),
            case.capacity,
        )
        outputs["key_cache"] = p.cache
    library.check_launch(params)
    return outputs


def check(case: RopeCase, outputs: Outputs) -> float:
    """Returns the largest error over its tolerance; an AssertionError where it is above 1."""
    worst = 0.0
    for name, want in reference(case, make_problem(case)).items():
        if not want.size:
            continue
        tolerance = ROUNDING[case.data_type] * np.abs(want) + OF_LARGEST * max(1.0, np.abs(want).max())
        error = np.abs(outputs[name].astype(np.float64) - want) / tolerance
        require(not np.isnan(error).any(), f"{case}: {name} is not written everywhere")
        worst = max(worst, float(error.max()))
    require(worst <= 1, f"{case}: error {worst:.2f} times the tolerance")
    return worst
