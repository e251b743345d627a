"""Rows of the whole mixture of experts.

Legend: T tokens, D hidden size, E experts, F expert width, K experts a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from r1trt.ops.expert_parts import expert_parts
from r1trt.plugin_checks.bench import moe_peers, roofline
from r1trt.plugin_checks.bench.aims import OURS, RATIO, Aim, Work
from r1trt.plugin_checks.bench.launching import compiled, launch
from r1trt.plugin_checks.bench.moe_shapes import Inputs, Shape, draw, weights_of
from r1trt.plugin_checks.bench.timing import Contender
from r1trt.plugin_checks.cases.arrays import FLOAT8_E4M3
from r1trt.plugin_checks.cases.moe_cases import BLOCK_128
from r1trt.plugin_checks.device_kernels import DeviceKernels

BLOCK = 128


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """The whole layer."""

    tokens: int
    shape: Shape
    fp8: bool
    hot: bool = False

    @property
    def name(self) -> str:
        """As the receipt has it."""
        return f"moe layer {'fp8 128x128' if self.fp8 else 'bf16'}, {self.shape.name}, T={self.tokens}"

    @property
    def work(self) -> Work:
        """Operations and bytes."""
        s, top_k = self.shape, self.shape.routing["top_k"]
        return Work(
            operations=roofline.moe_operations(self.tokens, top_k, s.hidden, s.width), fp8=self.fp8,
            size=roofline.moe_bytes(self.tokens, s.experts, top_k, s.hidden, s.width, 1 if self.fp8 else 2),
        )  # fmt: skip

    @property
    def aims(self) -> tuple[Aim, ...]:
        """What it is meant to reach."""
        peers = (
            ("torch._scaled_grouped_mm",)
            if self.fp8
            else ("vLLM fused_experts", "torch._grouped_mm", "torch._grouped_mm, compiled")
        )
        return (Aim(measure=RATIO, limit=1.2, peer=peers),)

    def contenders(self, library: DeviceKernels, device: str) -> list[Contender]:
        """Ours first; peers but for torch's are without the routing."""
        s, inputs = self.shape, draw(self.shape, self.tokens, device)
        dtype = torch.float8_e4m3fn if self.fp8 else torch.bfloat16
        gate_up, down = (
            weights_of(s, 2 * s.width, s.hidden, dtype, device),
            weights_of(s, s.hidden, s.width, dtype, device),
        )
        scales = tuple(
            torch.rand(s.experts, rows // BLOCK, columns // BLOCK, device=device) * 1e-3
            for rows, columns in ((2 * s.width, s.hidden), (s.hidden, s.width))
        )
        fields = {"weight_type": FLOAT8_E4M3, "scale_layout": BLOCK_128} if self.fp8 else {}
        params = s.params(library, self.tokens, **fields)
        inputs.point(params)
        y = torch.full_like(inputs.x, float("nan"))
        params.y = y.data_ptr()
        for name, weight, scale in (("gate_up", gate_up, scales[0]), ("down", down, scales[1])):
            for part in expert_parts(s.experts, s.parts):
                field = getattr(params, name).part[part.index]
                field.data = weight[part.first].data_ptr()
                field.scale = scale[part.first].data_ptr() if self.fp8 else None
        kept = (inputs.x, inputs.w_router, inputs.bias, gate_up, down, *scales)
        return [
            Contender(name=OURS, make=lambda: launch(library, params, y, *kept)),
            *(self._fp8_peers if self.fp8 else self._bf16_peers)(inputs, gate_up, down, scales),
        ]

    def _bf16_peers(self, inputs: Inputs, gate_up: Tensor, down: Tensor, _: Any) -> list[Contender]:
        routing = self.shape.routing

        def layer() -> Tensor:
            weights, experts = inputs.routed(routing)
            return moe_peers.grouped_mm(inputs.x, experts, weights, gate_up, down)

        weights, experts = inputs.routed(routing)
        return [
            Contender(name="torch._grouped_mm", make=lambda: layer),
            Contender(name="torch._grouped_mm, compiled", make=lambda: compiled(layer, inputs.x.device)),
            Contender(
                name="vLLM fused_experts",
                make=lambda: moe_peers.vllm_fused_experts(inputs.x, gate_up, down, weights, experts),
            ),
        ]

    def _fp8_peers(
        self, inputs: Inputs, gate_up: Tensor, down: Tensor, scales: tuple[Tensor, ...]
    ) -> list[Contender]:
        routing, s = self.shape.routing, self.shape
        by_row = tuple(
            torch.rand(s.experts, rows, device=inputs.x.device) * 1e-3 for rows in (2 * s.width, s.hidden)
        )

        def layer() -> Tensor:
            weights, experts = inputs.routed(routing)
            return moe_peers.scaled_grouped_mm(
                inputs.x, experts, weights, gate_up, down, (by_row[0], by_row[1])
            )

        _, experts = inputs.routed(routing)
        return [
            Contender(
                name="torch._scaled_grouped_mm", same=False, make=lambda: compiled(layer, inputs.x.device)
            ),
            Contender(
                name="DeepGEMM, the two products alone", same=False,
                make=lambda: moe_peers.deep_gemm(experts, gate_up, down, (scales[0], scales[1])),
            ),
        ]  # fmt: skip
