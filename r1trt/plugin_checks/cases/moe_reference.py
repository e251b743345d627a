"""R1DynamicMoE in FP64, by its definition; and the comparison with it."""

from __future__ import annotations

import numpy as np

from r1trt.plugin_checks.cases.arrays import DTYPES, FLOAT8_E4M3, LARGEST_E4M3, ROUNDING
from r1trt.plugin_checks.cases.case import require
from r1trt.plugin_checks.cases.moe_cases import (
    GROUP_MAXIMUM,
    SEPARATE,
    MoeCase,
    Outputs,
    Problem,
    make_problem,
)

CLOSE_DECISION = 1e-5
VERY_CLOSE_DECISION = 1e-6  # where neighbours are near on purpose
# Tokens whose decision may be close, beside one: random draws have some, near neighbours many.
MOST_CLOSE_DECISIONS, MOST_VERY_CLOSE_DECISIONS = 0.05, 0.3
# Deviations of a sum of roundings that the tolerance allows; and what FP32 adds to them.
DEVIATIONS = 4
OF_FP32 = 1e-4
# One element of an E4M3 middle may be rounded to the other neighbour in FP32 than in FP64.
OTHER_NEIGHBOUR = 2 * ROUNDING[FLOAT8_E4M3]


def quantized(rows: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """What E4M3 makes of rows [T, n]: by a static scale, or by one for 128 neighbours."""
    rows = rows.astype(np.float32)
    if scale is None:
        blocks = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 128))).reshape(len(rows), -1, 128)
        largest = np.abs(blocks).max(-1, keepdims=True)
        scale = np.where(largest > 0, largest / np.float32(LARGEST_E4M3), np.float32(1)).astype(np.float32)
        scale = np.repeat(scale[..., 0], 128, -1)[:, : rows.shape[1]]
    units = (rows / scale).clip(-LARGEST_E4M3, LARGEST_E4M3)
    stored: np.ndarray = units.astype(DTYPES[FLOAT8_E4M3]).astype(np.float64)
    return stored * scale.astype(np.float64)


def _ranked(values: np.ndarray) -> np.ndarray:
    return np.argsort(-values, kind="stable")


def _scores(case: MoeCase, p: Problem, x: np.ndarray) -> np.ndarray:
    # NOTES: BLAS may sum equal rows in different orders; what ties must tie.
    logits = np.round(p.w_router.astype(np.float64) @ x, 12)
    if case.sigmoid:
        return np.asarray(1 / (1 + np.exp(-logits)))
    scores = np.exp(logits - logits.max())
    return np.asarray(scores / scores.sum())


def _within_groups(case: MoeCase, selection: np.ndarray) -> tuple[np.ndarray, float]:
    """Selection scores with all but the best groups at -inf, and how near another choice of groups is."""
    if not case.method or case.n_group == 1:
        return selection, np.inf
    groups = selection.reshape(case.n_group, -1)
    best = 1 if case.method == GROUP_MAXIMUM else min(2, groups.shape[1])
    scores = np.sort(groups, 1)[:, -best:].sum(1)
    order = _ranked(scores)
    masked = np.full_like(groups, -np.inf)
    masked[order[: case.topk_group]] = groups[order[: case.topk_group]]
    gap = np.inf
    if case.topk_group < case.n_group and case.routing not in ("ties", "equal"):
        gap = scores[order[case.topk_group - 1]] - scores[order[case.topk_group]]
    return masked.reshape(-1), float(gap)


def route(case: MoeCase, p: Problem, x: np.ndarray) -> tuple[list[int], list[float], float]:
    """Experts of one token, their weights, and the distance to another decision."""
    scores = _scores(case, p, x)
    selection = scores if p.bias is None else scores + p.bias.astype(np.float64)
    selection, margin = _within_groups(case, selection)
    order = _ranked(selection)
    chosen = order[: case.top_k]
    if case.routing not in ("ties", "equal") and case.top_k < case.experts:
        margin = min(margin, selection[order[case.top_k - 1]] - selection[order[case.top_k]])
    weights = scores[chosen]
    kept = np.ones(case.top_k, bool)
    if case.threshold < 1:
        needed = np.float64(np.float32(case.threshold)) * weights.sum()
        before = np.concatenate([[0], np.cumsum(weights)[:-1]])
        kept = (np.arange(case.top_k) < case.top_k_min) | (before < needed)
        margin = min(margin, np.abs(before - needed).min())
    weights = weights * kept
    if case.norm:
        weights = weights / (weights.sum() + 1e-20)
    weights = weights * np.float64(np.float32(case.scaling))
    return [int(e) for e in chosen[kept]], [float(w) for w in weights[kept]], float(margin)


def _expert(
    case: MoeCase, p: Problem, x: np.ndarray, gate_up: np.ndarray, down: np.ndarray, *, shared: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """What an expert makes of x [n, D], and the error allowed for each element of it."""
    width, unit = down.shape[1], ROUNDING[case.data_type]
    if case.quantized:
        x = quantized(x, p.x_scale if case.static else None)
    both = x @ gate_up.T
    gate, up = both[:, :width], both[:, width:]
    sigmoid = 1 / (1 + np.exp(-gate))
    middle = gate * sigmoid * up
    # Of a middle's square error: its own rounding; and those of gate and up where SwiGLU is apart.
    squares = np.zeros_like(middle) if case.quantized else middle**2
    if case.swiglu == SEPARATE and not shared:
        squares = squares + middle**2 + (middle * (1 + gate * (1 - sigmoid))) ** 2
        if case.quantized:  # which then has another neighbour now and then
            squares = squares * OTHER_NEIGHBOUR / unit
    if case.quantized:
        middle = quantized(middle, p.mid_scale if case.static else None)
    out, terms = middle @ down.T, np.sqrt(middle**2 @ (down**2).T)
    tolerance = unit * (np.abs(out) + DEVIATIONS * np.sqrt(squares @ (down**2).T)) + OF_FP32 * terms
    if case.quantized:
        largest = np.abs(middle).max(1, keepdims=True) * np.abs(down).max(1)
        tolerance = tolerance + OTHER_NEIGHBOUR * largest
    return out, tolerance


def _takers(case: MoeCase, p: Problem, x: np.ndarray) -> tuple[dict[int, dict[int, float]], np.ndarray]:
    """The weights of every expert's tokens, and which tokens' routing is too close to call."""
    takers: dict[int, dict[int, float]] = {}
    close = np.zeros(len(x), bool)
    for t in np.flatnonzero(is_token(case, p)):
        experts, weights, margin = route(case, p, x[t])
        close[t] = margin < (VERY_CLOSE_DECISION if case.routing == "near" else CLOSE_DECISION)
        for e, w in zip(experts, weights, strict=True):
            takers.setdefault(e, {})[int(t)] = w
    return takers, close


def is_token(case: MoeCase, p: Problem) -> np.ndarray:
    """Which of the T tokens are not padding."""
    return np.asarray(np.arange(case.seq) < p.seq_len[:, None]).reshape(-1)


def reference(case: MoeCase, p: Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Y [T, D] in FP64, the error allowed for each element, and which tokens are too close to call."""
    x = p.x.astype(np.float64).reshape(-1, case.hidden)
    takers, close = _takers(case, p, x)
    y, tolerance = np.zeros_like(x), np.zeros_like(x)
    for e, weights in takers.items():
        tokens, weight = np.array(list(weights)), np.array(list(weights.values()))[:, None]
        out, allowed = _expert(case, p, x[tokens], p.gate_up.value[e], p.down.value[e])
        y[tokens] += weight * out
        tolerance[tokens] += weight * allowed
    if p.shared_gate_up is not None and p.shared_down is not None:
        valid = is_token(case, p)
        shared = p.shared_gate_up.value, p.shared_down.value
        out, allowed = _expert(case, p, x[valid], *shared, shared=True)
        y[valid] += out
        tolerance[valid] += allowed
    return y, tolerance + ROUNDING[case.data_type] * np.abs(y), close


def check(case: MoeCase, outputs: Outputs) -> float:
    """Returns the largest error over its tolerance; an AssertionError where it is above 1."""
    p = make_problem(case)
    want, tolerance, close = reference(case, p)
    share = MOST_VERY_CLOSE_DECISIONS if case.routing == "near" else MOST_CLOSE_DECISIONS
    require(
        close.sum() <= 1 + share * close.size,
        f"{case}: {close.sum()} of {close.size} tokens are too close to call",
    )
    got, valid = outputs["y"].reshape(want.shape).astype(np.float64), is_token(case, p)
    require(np.all(got[~valid] == 0), f"{case}: padding is not 0")
    compared = valid & ~close
    error = float((np.abs(got - want)[compared] / tolerance[compared]).max())
    require(error <= 1, f"{case}: error {error:.2f} times the tolerance")
    return error
