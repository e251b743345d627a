"""R1HLAAttention: cases, reference in FP64, comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from r1trt.plugin_checks.cases.arrays import (
    BFLOAT16,
    DTYPES,
    FLOAT16,
    ROUNDING,
    address,
    aligned,
    aligned_copy,
)
from r1trt.plugin_checks.cases.case import Case, require, require_distinct
from r1trt.plugin_checks.cases.library import KernelLibrary
from r1trt.plugin_checks.cases.params import AttentionParams

FIRST_TO_FIRST, ALL_TO_FIRST = 0, 1
SENTINEL = np.nan  # what the cache holds where nobody should write, nor let it into a sum
MOST_PAST = 1 << 20  # what is larger is no length but a fault
# The roundings of the softmax's weights, of random sign: deviations of their sum that the tolerance allows.
DEVIATIONS = 4
OF_FP32 = 2e-5  # scores, exponentials and sums in FP32

Outputs = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class AttentionCase(Case):
    """One call."""

    batch: int = 1
    seq: int = 33
    heads: int = 2
    kv_heads: int = 1
    qk: int = 64
    v: int = 64
    block: int = 32
    inter_block: int = FIRST_TO_FIRST
    lam: str = "random"  # none, zeros, ones, random (0, 1 and between), heads (whole heads at 0 or 1)
    lam_skip: float = 0.0
    past: tuple[int, ...] = (0,)
    lengths: tuple[int, ...] = ()
    room: int = 0  # slots of the cache beyond the longest row; negative: some rows do not fit
    cached: bool = True
    write_keys: bool = True
    scale: float = 0.0
    data_type: int = BFLOAT16
    sm: int = 90
    num_sms: int = 8

    @property
    def latent(self) -> bool:
        """Values are the keys' first elements."""
        return self.qk == 576

    @property
    def cost(self) -> int:
        """Multiplications of full attention."""
        return self.batch * self.seq * self.heads * (self.longest + self.seq) * (self.qk + self.v)

    @property
    def longest(self) -> int:
        """The largest past length that is meant."""
        return max(past for past in self.past if past < MOST_PAST) if self.cached else 0


_DECODE: dict[str, Any] = {"seq": 1, "heads": 8, "kv_heads": 2}
CASES = [
    *(AttentionCase(seq=seq) for seq in (1, 31, 32, 33, 127)),
    *(AttentionCase(seq=seq, inter_block=ALL_TO_FIRST, data_type=FLOAT16) for seq in (1, 31, 32, 33, 127)),
    *(AttentionCase(seq=seq, lam=lam) for seq in (33, 127) for lam in ("zeros", "ones", "none")),
    AttentionCase(seq=1000, heads=1, lam="zeros"),
    AttentionCase(seq=1000, heads=1, lam="zeros", inter_block=ALL_TO_FIRST),
    AttentionCase(seq=1000, heads=1, num_sms=1),
    AttentionCase(seq=300, heads=2, lam="none"),
    AttentionCase(seq=130, heads=6, kv_heads=2, lam="heads", cached=False),
    AttentionCase(seq=200, lam="ones", room=9),
    AttentionCase(seq=150, lam_skip=0.3, scale=0.2, heads=4),
    AttentionCase(seq=70, past=(14,), lam="none"),  # a warp's first row sees all of a tile but its last key
    AttentionCase(seq=77, block=16, past=(23,), inter_block=ALL_TO_FIRST),
    AttentionCase(seq=77, block=7, past=(11,), heads=3),
    AttentionCase(batch=4, seq=40, past=(0, 31, 64, 70), lengths=(40, 0, 1, 33), heads=4, kv_heads=2),
    AttentionCase(batch=3, seq=17, past=(0, 32, 50), lengths=(17, 9, 0), lam="none", heads=4, kv_heads=2),
    AttentionCase(batch=2, seq=20, past=(10, 40), room=-7, heads=4, kv_heads=2),
    AttentionCase(batch=2, seq=20, past=(10, 40), room=-7, inter_block=ALL_TO_FIRST, lam="zeros",
        data_type=FLOAT16),
    AttentionCase(seq=70, qk=128, v=128, past=(10,)),
    AttentionCase(seq=70, qk=128, v=128, past=(40,), inter_block=ALL_TO_FIRST, data_type=FLOAT16,
        heads=4, kv_heads=2),
    AttentionCase(seq=70, qk=192, v=128, data_type=FLOAT16, lam="none", past=(10,), heads=2, kv_heads=2),
    AttentionCase(seq=70, qk=192, v=128),
    AttentionCase(seq=5, qk=576, v=512, heads=8, lam="none", past=(60,)),
    AttentionCase(seq=20, qk=576, v=512, heads=8, past=(60,), data_type=FLOAT16),
    AttentionCase(seq=3, qk=576, v=512, heads=8, past=(45,), sm=89, cached=False),
    AttentionCase(batch=2, past=(400, 31), room=700, **_DECODE),
    AttentionCase(batch=3, past=(300, 0, 31), lengths=(1, 1, 1), lam="none", room=300, **_DECODE),
    AttentionCase(batch=3, past=(300, 0, 599), lengths=(1, 0, 1), room=0, data_type=FLOAT16, **_DECODE),
    AttentionCase(past=(992,), inter_block=ALL_TO_FIRST, room=40, num_sms=16, **_DECODE),
    AttentionCase(past=(700,), lam="zeros", inter_block=ALL_TO_FIRST, num_sms=16, **_DECODE),
    AttentionCase(past=(608,), lam="zeros", num_sms=16, **_DECODE),
    AttentionCase(seq=5, heads=4, past=(510,), qk=128, v=128, num_sms=16, room=3),
    AttentionCase(seq=3, heads=16, kv_heads=1, past=(610,), num_sms=16),
    AttentionCase(seq=1, qk=576, v=512, heads=16, past=(530,), lam="none"),
    AttentionCase(batch=2, seq=1, qk=576, v=512, heads=4, past=(300, 64), lam="none", room=11),
    AttentionCase(seq=1, qk=576, v=512, heads=16, past=(530,), inter_block=ALL_TO_FIRST, data_type=FLOAT16),
    # Rows that are nowhere in the cache are left alone; so are negative numbers of tokens.
    AttentionCase(batch=4, seq=20, past=(-70, 10, -5, 2**32 + 3), heads=4, kv_heads=2),
    AttentionCase(batch=4, seq=70, past=(40, -40, 2**31 - 3, 12), inter_block=ALL_TO_FIRST, heads=2),
    AttentionCase(batch=4, past=(300, -1, -(2**31), 2**40), room=300, num_sms=64, **_DECODE),
    AttentionCase(batch=4, seq=20, past=(40, 10, -(2**40), 3), room=-21,
        lengths=(20, -(2**32) + 9, 20, 12)),
    AttentionCase(seq=1, qk=192, v=128, heads=2, kv_heads=2, past=(63,), write_keys=False),
    AttentionCase(seq=40, past=(20,), write_keys=False, heads=4, kv_heads=2),
]  # fmt: skip
require_distinct(CASES)


@dataclass
class Problem:
    """A case's tensors; the caches are before the call."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray | None
    key_cache: np.ndarray
    value_cache: np.ndarray | None
    lam: np.ndarray | None
    past: np.ndarray
    seq_len: np.ndarray


def _lam(case: AttentionCase, rng: np.random.Generator) -> np.ndarray | None:
    shape = (case.batch, case.seq, case.heads)
    if case.lam == "none":
        return None
    if case.lam in ("zeros", "ones"):
        return aligned_copy(np.full(shape, float(case.lam == "ones"), np.float32))
    if case.lam == "heads":
        return aligned_copy(np.broadcast_to(np.arange(case.heads) % 3 == 0, shape).astype(np.float32))
    lam = rng.uniform(0, 1, shape)
    return aligned_copy(np.where(rng.random(shape) < 0.5, np.round(lam), lam).astype(np.float32))


def make_problem(case: AttentionCase) -> Problem:
    """Draws the tensors."""
    rng, dtype = case.generator(), DTYPES[case.data_type]
    past = np.resize(np.array(case.past if case.cached else 0, np.int64), case.batch)
    lengths = np.array(case.lengths or [case.seq] * case.batch, np.int64)
    capacity = case.longest + case.seq + case.room

    def tensor(*shape: int) -> np.ndarray:
        return aligned_copy(rng.standard_normal(shape).astype(dtype))

    def cache(size: int) -> np.ndarray:
        result = tensor(case.batch, case.kv_heads, capacity, size)
        for b in range(case.batch):
            result[b, :, max(past[b], 0) :] = SENTINEL
        return result

    k = tensor(case.batch, case.seq, case.kv_heads, case.qk)
    p = Problem(
        q=tensor(case.batch, case.seq, case.heads, case.qk), k=k,
        v=None if case.latent else tensor(case.batch, case.seq, case.kv_heads, case.v),
        key_cache=cache(case.qk),
        value_cache=None if case.latent else cache(case.v), lam=_lam(case, rng), past=aligned_copy(past),
        seq_len=aligned_copy(lengths),
    )  # fmt: skip
    if not case.write_keys:
        p.key_cache = aligned_copy(written(case, p, p.key_cache, k))
    return p


def tokens(p: Problem) -> np.ndarray:
    """Of each row, those that are no padding: none of a row that is nowhere in the cache."""
    placed = (p.past >= 0) & (p.past <= p.key_cache.shape[2])
    return np.where(placed, np.maximum(p.seq_len, 0), 0)


def written(case: AttentionCase, p: Problem, cache: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The cache [B, Hkv, C, d] after the call, without the slots that do not exist."""
    result = cache.copy()
    for b in np.flatnonzero(tokens(p)):
        slots = result[b, :, p.past[b] : p.past[b] + p.seq_len[b]]
        slots[...] = rows[b, : slots.shape[1]].swapaxes(0, 1)
    return result


def key_masks(case: AttentionCase, position: np.ndarray, keys: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys that the full and the block branch of queries [n] see, [n, keys]."""
    query, key = position[:, None], np.arange(keys)
    causal = key <= query
    first = key % case.block == 0
    if case.inter_block == FIRST_TO_FIRST:
        first = first & (query % case.block == 0)
    return causal, causal & ((key // case.block == query // case.block) | first)


def lam_of(case: AttentionCase, p: Problem, b: int, count: int, head: int) -> np.ndarray:
    """Weights of the full branch of `count` tokens."""
    if p.lam is None:
        return np.ones(count)
    lam = p.lam[b, :count, head].astype(np.float64)
    if not case.lam_skip:
        return lam
    skip = np.float64(np.float32(case.lam_skip))
    return np.where(lam < skip, 0, np.where(lam > 1 - skip, 1, lam))


def _attend(scores: np.ndarray, mask: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Softmax attention, and the root of the summed squares of its terms."""
    scores = np.where(mask, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights = weights / weights.sum(-1, keepdims=True)
    return weights @ values, np.sqrt(weights**2 @ values**2)


def reference(case: AttentionCase, p: Problem) -> tuple[Outputs, np.ndarray]:
    """The outputs in FP64, padding 0; and the error allowed for each element of y [B, S, H, dv]."""
    keys = written(case, p, p.key_cache, p.k)
    values = (
        keys[..., : case.v] if p.v is None or p.value_cache is None else written(case, p, p.value_cache, p.v)
    )
    y = np.zeros((case.batch, case.seq, case.heads, case.v))
    tolerance = np.zeros_like(y)
    scale, unit = float(np.float32(case.scale)) or 1 / np.sqrt(case.qk), ROUNDING[case.data_type]
    for b in range(case.batch):
        count = int(tokens(p)[b])
        position = np.arange(int(p.past[b]), int(p.past[b]) + count)
        existing = min(int(p.past[b]) + count, keys.shape[2])
        causal, block = key_masks(case, position, existing)
        for h in range(case.heads if count else 0):
            k, v = (
                x[b, h * case.kv_heads // case.heads, :existing].astype(np.float64) for x in (keys, values)
            )
            scores = p.q[b, :count, h].astype(np.float64) @ k.T * scale
            full, full_terms = _attend(scores, causal, v)
            near, near_terms = _attend(scores, block, v)
            lam = lam_of(case, p, b, count, h)[:, None]
            y[b, :count, h] = lam * full + (1 - lam) * near
            terms = lam * full_terms + (1 - lam) * near_terms
            # y is rounded, and so is the block branch's part on its way.
            rounded = np.abs(y[b, :count, h]) + (1 - lam) * np.abs(near)
            tolerance[b, :count, h] = unit * (rounded + DEVIATIONS * terms) + OF_FP32
    outputs = {"y": y, "key_cache": keys}
    if p.value_cache is not None:
        outputs["value_cache"] = values
    return outputs, tolerance


def arguments(library: KernelLibrary, case: AttentionCase, p: Problem, y: np.ndarray) -> AttentionParams:
    """The call."""
    params = library.params(
        AttentionParams, data_type=case.data_type, batch=case.batch, seq=case.seq, heads=case.heads,
        kv_heads=case.kv_heads, qk_head_dim=case.qk, v_head_dim=case.v, scale=case.scale,
        block_size=case.block,
        inter_block=case.inter_block, lam_skip=case.lam_skip, q=address(p.q), k=address(p.k), v=address(p.v),
        lam=address(p.lam), past_len=address(p.past), seq_len=address(p.seq_len), y=address(y),
        write_key_cache=case.write_keys, sm=case.sm, num_sms=case.num_sms,
    )  # fmt: skip
    if case.cached:
        params.key_cache, params.value_cache = address(p.key_cache), address(p.value_cache)
        params.cache_capacity = p.key_cache.shape[2]
    return params


def compute(library: KernelLibrary, case: AttentionCase) -> Outputs:
    """Runs the kernels on the case's tensors."""
    p = make_problem(case)
    y = aligned((case.batch, case.seq, case.heads, case.v), DTYPES[case.data_type])
    y[...] = np.nan
    library.check_launch(arguments(library, case, p, y))
    outputs = {"y": y}
    if case.cached:
        outputs["key_cache"] = p.key_cache
        if p.value_cache is not None:
            outputs["value_cache"] = p.value_cache
    return outputs


def check(case: AttentionCase, outputs: Outputs) -> float:
    """Returns the largest error over its tolerance; an AssertionError where it is above 1."""
    p = make_problem(case)
    want, tolerance = reference(case, p)
    for name in outputs.keys() - {"y"}:
        same = np.array_equal(outputs[name].view(np.uint16), want[name].view(np.uint16))
        require(same, f"{case}: the {name} is not as it should be")
    got = outputs["y"].astype(np.float64)
    padding = np.arange(case.seq) >= tokens(p)[:, None]
    require(np.all(got[padding] == 0), f"{case}: padding is not 0")
    error = (np.abs(got - want["y"])[~padding] / tolerance[~padding]).max()
    require(error <= 1, f"{case}: error {error:.2f} times the tolerance")
    return float(error)
