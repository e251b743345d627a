"""Rows of the mixture of experts: selection, permutation, combination; and all of them with the layer's.

Legend: T tokens, D hidden size, E experts, K experts a token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from r1trt.plugin_checks.bench import moe_peers, roofline
from r1trt.plugin_checks.bench.aims import MICROSECONDS, OURS, SHARE_OF_COPY, Aim, Work
from r1trt.plugin_checks.bench.launching import (
    COMBINE,
    LOGITS,
    PERMUTE,
    ROUTER,
    compiled,
    moe_stage,
    with_workspace,
)
from r1trt.plugin_checks.bench.moe_layer_row import LayerRow
from r1trt.plugin_checks.bench.moe_shapes import DEEPSEEK_V3, MIXTRAL, Shape, draw
from r1trt.plugin_checks.bench.row_times import Row
from r1trt.plugin_checks.bench.timing import Call, Contender
from r1trt.plugin_checks.device_kernels import DeviceKernels

WITH_LOGITS, LOGITS_ALONE = f"{OURS}, logits and selection", f"{OURS}, logits alone"


@dataclass(frozen=True, kw_only=True)
class RouterRow:
    """From logits to experts, weights, histogram and rows; peers stop at the experts and weights."""

    tokens: int
    shape: Shape = DEEPSEEK_V3
    hot: bool = True

    @property
    def name(self) -> str:
        """As the receipt has it."""
        return f"router selection, {self.shape.name}, T={self.tokens}"

    @property
    def work(self) -> Work:
        """Logits read, experts and weights written."""
        return Work(size=self.tokens * (4 * self.shape.experts + 8 * self.shape.routing["top_k"]))

    @property
    def aims(self) -> tuple[Aim, ...]:
        """What it is meant to reach."""
        if self.tokens <= 64:
            return (Aim(measure=MICROSECONDS, limit=2.4),)
        return (Aim(measure=MICROSECONDS, limit=10),)

    def derived(self, times: dict[str, float]) -> dict[str, tuple[float, str]]:
        """The selection alone is not a call of its own."""
        if WITH_LOGITS not in times or LOGITS_ALONE not in times:
            return {}
        return {OURS: (times[WITH_LOGITS] - times[LOGITS_ALONE], f"{WITH_LOGITS}, less {LOGITS_ALONE}")}

    def contenders(self, library: DeviceKernels, device: str) -> list[Contender]:
        """Ours first."""
        inputs, shape = draw(self.shape, self.tokens, device), self.shape
        params = shape.params(library, self.tokens)
        inputs.point(params)
        kept = (inputs.x, inputs.w_router, inputs.bias, with_workspace(library, params, device))
        logits, routing = inputs.logits, shape.routing

        def by_torch() -> Call:
            function = compiled(moe_peers.route, device)
            return lambda: function(logits, inputs.bias, **routing)

        return [
            Contender(name=WITH_LOGITS, make=lambda: moe_stage(library, params, ROUTER, *kept), same=False),
            Contender(name=LOGITS_ALONE, make=lambda: moe_stage(library, params, LOGITS, *kept), same=False),
            Contender(name="torch.compile", make=by_torch, same=False),
            Contender(
                name="vLLM grouped_topk", same=False,
                make=lambda: moe_peers.vllm_grouped_topk(logits, inputs.bias, routing),
            ),
            Contender(
                name="FlashInfer fused_topk_deepseek", same=False,
                make=lambda: moe_peers.flashinfer_topk(logits, inputs.bias, routing),
            ),
        ]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MoveRow:
    """Tokens to their experts' rows, or those rows back, weighted."""

    tokens: int
    combine: bool = False
    shape: Shape = DEEPSEEK_V3
    hot: bool = False

    @property
    def name(self) -> str:
        """As the receipt has it."""
        return f"{'combine' if self.combine else 'permute'} bf16, {self.shape.name}, T={self.tokens}"

    @property
    def work(self) -> Work:
        """Bytes."""
        top_k, hidden = self.shape.routing["top_k"], self.shape.hidden
        if self.combine:
            return Work(size=roofline.combine_bytes(self.tokens, top_k, hidden))
        return Work(size=roofline.permute_bytes(self.tokens, top_k, hidden, roofline.BF16_BYTES))

    @property
    def aims(self) -> tuple[Aim, ...]:
        """What it is meant to reach."""
        return (Aim(measure=SHARE_OF_COPY, limit=0.8),)

    def contenders(self, library: DeviceKernels, device: str) -> list[Contender]:
        """Ours first."""
        inputs, shape = draw(self.shape, self.tokens, device), self.shape
        params = shape.params(library, self.tokens)
        inputs.point(params)
        y = torch.empty_like(inputs.x)
        params.y = y.data_ptr()
        kept = (inputs.x, inputs.w_router, inputs.bias, y, with_workspace(library, params, device))
        weights, experts = inputs.routed(shape.routing)
        order, _ = moe_peers.sorted_rows(experts, shape.experts)
        sources = order // shape.routing["top_k"]

        def ours() -> Call:
            for stage in (ROUTER, PERMUTE):
                moe_stage(library, params, stage, *kept)()
            return moe_stage(library, params, COMBINE if self.combine else PERMUTE, *kept)

        def combining() -> Call:
            rows = torch.randn(len(order), shape.hidden, device=device, dtype=torch.bfloat16)
            function = compiled(moe_peers.combined, device)
            return lambda: function(rows, order, weights)

        if self.combine:
            return [
                Contender(name=OURS, make=ours, same=False),
                Contender(name="torch.compile", make=combining, same=False),
            ]
        return [
            Contender(name=OURS, make=ours, same=False),
            Contender(name="torch gather", make=lambda: lambda: inputs.x[sources], same=False),
            Contender(
                name="vLLM moe_permute", same=False,
                make=lambda: moe_peers.vllm_permute(inputs.x, experts, shape.experts),
            ),
        ]  # fmt: skip


ROWS: list[Row] = [
    *(RouterRow(tokens=tokens) for tokens in (1, 64)),
    MoveRow(tokens=4096),
    LayerRow(tokens=1024, shape=MIXTRAL, fp8=False),
    LayerRow(tokens=128, shape=DEEPSEEK_V3, fp8=True),
    MoveRow(tokens=4096, combine=True),
    *(RouterRow(tokens=tokens) for tokens in (16, 1024, 8192)),
    MoveRow(tokens=512),
    LayerRow(tokens=4096, shape=DEEPSEEK_V3, fp8=True),
    *(LayerRow(tokens=tokens, shape=MIXTRAL, fp8=False) for tokens in (1, 4096)),
    LayerRow(tokens=1, shape=DEEPSEEK_V3, fp8=True),
]
