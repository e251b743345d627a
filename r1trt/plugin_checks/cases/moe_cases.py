"""R1DynamicMoE: cases, their tensors, and the call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from r1trt.ops.expert_parts import ExpertPart, expert_parts
from r1trt.plugin_checks.cases.arrays import (
    BFLOAT16,
    DTYPES,
    FLOAT8_E4M3,
    FLOAT16,
    LARGEST_E4M3,
    address,
    aligned,
    aligned_copy,
)
from r1trt.plugin_checks.cases.case import Case, require_distinct
from r1trt.plugin_checks.cases.library import KernelLibrary
from r1trt.plugin_checks.cases.params import ExpertWeights, MoeParams, MoeWeight

PER_TENSOR, PER_CHANNEL, BLOCK_128 = range(3)
GREEDY, GROUP_MAXIMUM, GROUP_TWO_HIGHEST = range(3)
AUTO, FP8, WEIGHT_ONLY = range(3)
FUSED, SEPARATE = 1, 2  # SwiGLU in the product's epilogue, or a kernel of its own

Outputs = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class MoeCase(Case):
    """One call."""

    batch: int = 1
    seq: int = 33
    hidden: int = 64
    experts: int = 8
    parts: int = 1
    width: int = 48
    shared_width: int = 0
    top_k: int = 2
    top_k_min: int = 1
    threshold: float = 1.0
    sigmoid: bool = False
    bias: bool = True  # with sigmoid scoring
    method: int = GREEDY
    norm: bool = True
    scaling: float = 1.0
    n_group: int = 1
    topk_group: int = 1
    data_type: int = BFLOAT16
    weight_type: int | None = None
    layout: int = PER_TENSOR
    math: int = AUTO
    static: bool = False
    swiglu: int = AUTO
    sm: int = 90
    lengths: tuple[int, ...] = ()
    # one_expert, few_experts: the others are empty; ties: neighbours score the same; equal: all experts do;
    # near: neighbours differ by less than 16 bits of a weight can hold.
    routing: str = "random"

    @property
    def fp8(self) -> bool:
        """Weights are E4M3."""
        return self.weight_type == FLOAT8_E4M3

    @property
    def quantized(self) -> bool:
        """Activations are E4M3 too."""
        return self.fp8 and (self.math == FP8 or (self.math == AUTO and self.sm >= 89))

    @property
    def cost(self) -> int:
        """Multiplications of the tiles."""
        rows = self.batch * self.seq * self.top_k
        tile = 16 if rows <= 16 * self.experts else 64
        tiles = rows // tile + min(rows, self.experts)
        return tiles * tile * (-(-self.hidden // 128) * -(-self.width // 128)) * 3 * 128 * 128


_DEEPSEEK: dict[str, Any] = {
    "sigmoid": True, "method": GROUP_TWO_HIGHEST, "n_group": 8, "topk_group": 4, "top_k": 8, "scaling": 2.5,
}  # fmt: skip
_FP8: dict[str, Any] = {"weight_type": FLOAT8_E4M3}
CASES = [
    *(MoeCase(seq=seq) for seq in (1, 31, 32, 33, 127)),
    MoeCase(seq=1000, hidden=32, width=16, experts=4),
    MoeCase(batch=3, seq=20, lengths=(20, 0, 7), shared_width=32),
    MoeCase(batch=2, seq=40, lengths=(1, 39), experts=16, top_k=3, threshold=0.7, data_type=FLOAT16),
    MoeCase(seq=70, routing="one_expert", top_k=1, data_type=FLOAT16),
    MoeCase(seq=200, routing="one_expert", top_k=1, hidden=32, width=16),
    MoeCase(seq=70, routing="few_experts", experts=16, top_k=2, shared_width=144),
    MoeCase(seq=9, experts=1, top_k=1, shared_width=16),
    MoeCase(seq=40, routing="ties", experts=16, top_k=3, norm=False),
    MoeCase(seq=40, routing="ties", experts=16, n_group=4, topk_group=2, method=GROUP_MAXIMUM, top_k=3),
    MoeCase(seq=20, routing="equal", experts=64, top_k=5, hidden=32, width=16),
    MoeCase(seq=20, routing="equal", experts=16, n_group=4, topk_group=2, method=GROUP_TWO_HIGHEST, top_k=6),
    MoeCase(routing="near", top_k=1),
    MoeCase(seq=40, experts=16, n_group=4, topk_group=2, top_k=3),
    MoeCase(seq=40, experts=16, top_k=6, top_k_min=2, threshold=0.6, norm=True),
    MoeCase(seq=40, experts=32, top_k=6, top_k_min=3, threshold=0.2),
    MoeCase(seq=40, experts=64, top_k=4, threshold=0.3, norm=False, data_type=FLOAT16, shared_width=16),
    MoeCase(seq=40, experts=16, top_k=4, sigmoid=True, bias=False, threshold=0.5, scaling=1.5),
    MoeCase(seq=5, experts=256, hidden=256, width=32, **_DEEPSEEK),
    MoeCase(seq=48, experts=32, hidden=96, width=144, shared_width=160, **_DEEPSEEK),
    MoeCase(seq=21, experts=6, n_group=3, topk_group=1, method=GROUP_TWO_HIGHEST, top_k=2, hidden=208),
    MoeCase(seq=19, experts=5, n_group=5, topk_group=3, method=GROUP_TWO_HIGHEST, top_k=3, sigmoid=True),
    MoeCase(seq=60, experts=24, n_group=4, topk_group=2, method=GROUP_MAXIMUM, top_k=4, sigmoid=True),
    MoeCase(seq=300, experts=3, top_k=3, hidden=80, width=272),
    # The router's kernels: one block, several, several passes of a block; logits of many tokens by each tile.
    MoeCase(seq=257, experts=40, hidden=48, width=16),
    MoeCase(seq=270, experts=40, hidden=528, width=16, data_type=FLOAT16),
    MoeCase(seq=66, experts=65, hidden=400, width=16, top_k=8),
    MoeCase(seq=90, experts=70, hidden=144, width=16, data_type=FLOAT16),
    MoeCase(seq=1540, experts=129, hidden=208, width=16, top_k=1),
    MoeCase(seq=3, experts=4, hidden=8272, width=16, top_k=1, norm=False),
    MoeCase(seq=8200, experts=24, n_group=4, topk_group=2, hidden=144, width=16, top_k=1,
            method=GROUP_MAXIMUM),
    MoeCase(seq=4100, experts=24, n_group=4, topk_group=2, hidden=16, width=16, top_k=1,
            method=GROUP_MAXIMUM),
    MoeCase(seq=50, experts=160, hidden=32, width=16, method=GROUP_MAXIMUM, n_group=8, topk_group=3, top_k=6),
    MoeCase(seq=20, experts=256, hidden=32, width=16, n_group=32, topk_group=20, method=GROUP_TWO_HIGHEST,
            top_k=8, sigmoid=True),
    MoeCase(seq=20, experts=256, hidden=32, width=16, method=GROUP_TWO_HIGHEST, n_group=16, topk_group=3,
            top_k=7, sigmoid=True, routing="ties"),
    MoeCase(seq=20, experts=256, hidden=32, width=16, top_k=8, routing="ties"),
    MoeCase(seq=20, experts=128, hidden=32, width=16, top_k=8, threshold=0.5),
    MoeCase(seq=33, hidden=272, width=144, shared_width=48, **_FP8),
    MoeCase(seq=33, hidden=272, width=144, shared_width=48, static=True, **_FP8),
    MoeCase(seq=80, hidden=272, width=144, layout=PER_CHANNEL, shared_width=48, static=True, **_FP8),
    MoeCase(seq=12, hidden=144, width=272, layout=PER_CHANNEL, experts=4, data_type=FLOAT16, **_FP8),
    MoeCase(seq=80, hidden=272, width=256, layout=BLOCK_128, shared_width=128, data_type=FLOAT16, **_FP8),
    MoeCase(seq=9, hidden=272, width=128, layout=BLOCK_128, experts=16, top_k=4, sm=89, **_FP8),
    MoeCase(seq=33, hidden=144, width=144, shared_width=48, sm=80, **_FP8),
    MoeCase(seq=80, hidden=272, width=144, layout=PER_CHANNEL, math=WEIGHT_ONLY, shared_width=48, **_FP8),
    MoeCase(seq=80, hidden=272, width=256, layout=BLOCK_128, math=WEIGHT_ONLY, data_type=FLOAT16, **_FP8),
    MoeCase(seq=5, hidden=144, width=128, layout=BLOCK_128, math=WEIGHT_ONLY, experts=16, **_FP8),
    MoeCase(seq=127, swiglu=SEPARATE, shared_width=16),
    MoeCase(batch=3, seq=20, lengths=(20, 0, 7), swiglu=SEPARATE, data_type=FLOAT16, width=272),
    MoeCase(seq=80, hidden=272, width=256, layout=BLOCK_128, shared_width=128, swiglu=SEPARATE, **_FP8),
    MoeCase(seq=33, hidden=144, width=144, static=True, swiglu=SEPARATE, data_type=FLOAT16, **_FP8),
    MoeCase(seq=33, hidden=144, width=144, sm=80, swiglu=SEPARATE, layout=PER_CHANNEL, **_FP8),
    # A shared expert that is as wide as the others is one more group of rows.
    MoeCase(seq=1, experts=16, shared_width=48),
    MoeCase(seq=70, experts=16, shared_width=48),  # of too many tokens for tiles of few rows: apart again
    MoeCase(seq=300, experts=4, shared_width=48, data_type=FLOAT16),
    MoeCase(batch=3, seq=20, lengths=(20, 0, 7), width=32, shared_width=32, routing="few_experts"),
    MoeCase(seq=12, experts=256, hidden=32, width=16, shared_width=16, top_k=8),
    MoeCase(seq=9, experts=1, top_k=1, width=16, shared_width=16),
    MoeCase(seq=40, experts=16, parts=5, top_k=6, shared_width=48),
    MoeCase(seq=33, hidden=272, width=144, shared_width=144, static=True, **_FP8),
    MoeCase(seq=80, hidden=272, width=144, layout=PER_CHANNEL, parts=3, shared_width=144, **_FP8),
    MoeCase(seq=12, hidden=272, width=256, layout=BLOCK_128, shared_width=256, data_type=FLOAT16, **_FP8),
    MoeCase(seq=60, hidden=272, width=128, layout=BLOCK_128, parts=3, shared_width=128, **_FP8),
    MoeCase(seq=20, hidden=144, width=128, layout=BLOCK_128, math=WEIGHT_ONLY, shared_width=128, **_FP8),
    MoeCase(seq=80, hidden=272, width=256, layout=BLOCK_128, shared_width=256, swiglu=SEPARATE, **_FP8),
    MoeCase(seq=130, experts=16, swiglu=SEPARATE, shared_width=48),
    MoeCase(seq=40, experts=16, parts=5, top_k=6, shared_width=16),
    MoeCase(seq=20, experts=5, parts=5, top_k=3, data_type=FLOAT16),
    MoeCase(seq=70, experts=7, parts=3, hidden=144, width=144, layout=PER_CHANNEL, shared_width=48, **_FP8),
    MoeCase(seq=33, experts=6, parts=4, hidden=144, width=144, static=True, sm=80, **_FP8),
    # As DeepSeek-R1's experts come, but for their sizes.
    MoeCase(seq=5, experts=32, parts=4, hidden=144, width=128, layout=BLOCK_128, shared_width=128,
            **_DEEPSEEK, **_FP8),
]  # fmt: skip
require_distinct(CASES)


def expanded(scale: np.ndarray, layout: int, shape: tuple[int, ...]) -> np.ndarray:
    """One scale an element of weights [..., rows, columns]."""
    if layout == PER_TENSOR:
        return np.broadcast_to(scale[..., None, None], shape)
    if layout == PER_CHANNEL:
        return np.broadcast_to(scale[..., None], shape)
    rows, columns = shape[-2:]
    return np.repeat(np.repeat(scale, 128, -2), 128, -1)[..., :rows, :columns]


class Weight:
    """Random weights [..., rows, columns] as stored, their scales, and what they stand for in FP64."""

    def __init__(self, case: MoeCase, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
        self.cut: list[tuple[np.ndarray, np.ndarray | None]] = []
        value = rng.standard_normal(shape) / np.sqrt(shape[-1])
        if not case.fp8:
            self.data, self.scale = aligned_copy(value.astype(DTYPES[case.data_type])), None
            self.value = self.data.astype(np.float64)
            return
        lead, (rows, columns) = shape[:-2], shape[-2:]
        scale_shape = {
            PER_TENSOR: lead or (1,),
            PER_CHANNEL: (*lead, rows),
            BLOCK_128: (*lead, -(-rows // 128), -(-columns // 128)),
        }[case.layout]
        self.scale = aligned_copy((0.01 * np.exp(rng.uniform(-1, 1, scale_shape))).astype(np.float32))
        scale = self.scale.reshape(lead) if case.layout == PER_TENSOR else self.scale
        wide = expanded(scale.astype(np.float64), case.layout, shape)
        units = (value / wide).clip(-LARGEST_E4M3, LARGEST_E4M3).astype(np.float32)
        self.data = aligned_copy(units.astype(DTYPES[FLOAT8_E4M3]))
        self.value = self.data.astype(np.float64) * wide

    def argument(self) -> MoeWeight:
        """As the kernels take the shared expert's."""
        return MoeWeight(address(self.data), address(self.scale))

    def in_parts(self, parts: int) -> ExpertWeights:
        """As the kernels take the experts', each part in arrays of its own."""
        if parts == 1:
            return ExpertWeights.of(self.argument())
        self.cut = [self._cut(part) for part in expert_parts(len(self.data), parts)]
        return ExpertWeights.of(*(MoeWeight(address(data), address(scale)) for data, scale in self.cut))

    def _cut(self, part: ExpertPart) -> tuple[np.ndarray, np.ndarray | None]:
        data, scale = (
            None if array is None else aligned_copy(array[part.first : part.stop])
            for array in (self.data, self.scale)
        )
        assert data is not None
        return data, scale


@dataclass
class Problem:
    """A case's tensors."""

    x: np.ndarray
    seq_len: np.ndarray
    w_router: np.ndarray
    bias: np.ndarray | None
    gate_up: Weight
    down: Weight
    shared_gate_up: Weight | None
    shared_down: Weight | None
    x_scale: np.ndarray
    mid_scale: np.ndarray


def _router_weight(case: MoeCase, rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """The router's weight [E, D]; for some routings, `x` changes too."""
    w = rng.standard_normal((case.experts, case.hidden)) / np.sqrt(case.hidden)
    if case.routing == "ties":
        w[1::2] = w[::2]
    if case.routing == "equal":
        w[:] = w[0]
    if case.routing == "near":
        # 16 bits of the significand
        w = 4 * (w.astype(np.float32).view(np.uint32) & 0xFFFFFF00).view(np.float32)
        w[1::2] = w[::2] * np.float32(1 + 2.0**-18)
    if case.routing in ("one_expert", "few_experts"):
        x[..., 0] = 8
        w[:, 0] = 0
        w[3 : (4 if case.routing == "one_expert" else 6), 0] = 20
    router: np.ndarray = w.astype(np.float32)
    return router


def make_problem(case: MoeCase) -> Problem:
    """Draws the tensors."""
    rng = case.generator()
    E, D, F, Fs = case.experts, case.hidden, case.width, case.shared_width
    x = rng.standard_normal((case.batch, case.seq, D))
    w_router = _router_weight(case, rng, x)
    bias = rng.uniform(-0.3, 0.3, E).astype(np.float32)
    return Problem(
        x=aligned_copy(x.astype(DTYPES[case.data_type])), w_router=aligned_copy(w_router),
        seq_len=aligned_copy(np.array(case.lengths or [case.seq] * case.batch, np.int64)),
        bias=aligned_copy(bias) if case.sigmoid and case.bias else None,
        gate_up=Weight(case, rng, (E, 2 * F, D)), down=Weight(case, rng, (E, D, F)),
        shared_gate_up=Weight(case, rng, (2 * Fs, D)) if Fs else None,
        shared_down=Weight(case, rng, (D, Fs)) if Fs else None,
        x_scale=aligned_copy(np.array([0.011], np.float32)), mid_scale=aligned_copy(np.array([0.004],
        np.float32)),
    )  # fmt: skip


def arguments(library: KernelLibrary, case: MoeCase, p: Problem, y: np.ndarray) -> MoeParams:
    """The call."""
    params = library.params(
        MoeParams, data_type=case.data_type, scale_layout=case.layout, fp8_math=case.math, swiglu=case.swiglu,
        weight_type=case.data_type if case.weight_type is None else case.weight_type,
        batch=case.batch, seq=case.seq, hidden=case.hidden, experts=case.experts, width=case.width,
        expert_parts=case.parts, shared_width=case.shared_width, scoring=int(case.sigmoid),
        topk_method=case.method, top_k=case.top_k,
        top_k_min=case.top_k_min, adaptive_threshold=case.threshold, norm_topk_prob=case.norm,
        routed_scaling_factor=case.scaling, n_group=case.n_group, topk_group=case.topk_group,
        x=address(p.x), seq_len=address(p.seq_len), w_router=address(p.w_router),
        router_bias=address(p.bias), gate_up=p.gate_up.in_parts(case.parts), down=p.down.in_parts(case.parts),
        y=address(y), sm=case.sm,
    )  # fmt: skip
    if p.shared_gate_up is not None and p.shared_down is not None:
        params.shared_gate_up, params.shared_down = p.shared_gate_up.argument(), p.shared_down.argument()
    if case.static:
        params.x_scale, params.mid_scale = address(p.x_scale), address(p.mid_scale)
    return params


def compute(library: KernelLibrary, case: MoeCase) -> Outputs:
    """Runs the kernels on the case's tensors."""
    p = make_problem(case)
    y = aligned(p.x.shape, p.x.dtype)
    y[...] = np.nan
    library.check_launch(arguments(library, case, p, y))
    return {"y": y}
