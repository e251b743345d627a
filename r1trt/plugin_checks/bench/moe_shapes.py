"""Models' mixtures of experts, and random tensors of theirs.

Legend: T tokens, D hidden size, E experts, F expert width, K experts a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from r1trt.plugin_checks.bench import moe_peers
from r1trt.plugin_checks.cases.arrays import BFLOAT16
from r1trt.plugin_checks.cases.moe_cases import GREEDY, GROUP_TWO_HIGHEST
from r1trt.plugin_checks.cases.params import MoeParams
from r1trt.plugin_checks.device_kernels import DeviceKernels


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model's mixture of experts."""

    name: str
    experts: int
    hidden: int
    width: int
    routing: dict[str, Any]
    parts: int = 1

    def params(self, library: DeviceKernels, tokens: int, **fields: Any) -> Any:
        """The call but for its pointers."""
        routing = self.routing
        return library.params(
            MoeParams, data_type=BFLOAT16, batch=1, seq=tokens, hidden=self.hidden, experts=self.experts,
            expert_parts=self.parts, width=self.width, scoring=int(routing["sigmoid"]),
            top_k=routing["top_k"],
            topk_method=GROUP_TWO_HIGHEST if routing["n_group"] > 1 else GREEDY, n_group=routing["n_group"],
            topk_group=routing["topk_group"],
            routed_scaling_factor=routing["scaling"], **{"weight_type": BFLOAT16, **fields},
        )  # fmt: skip


V3_ROUTING = {"sigmoid": True, "top_k": 8, "n_group": 8, "topk_group": 4, "scaling": 2.5}
DEEPSEEK_V3 = Shape(
    name="256 experts, top 8, 7168/2048",
    experts=256,
    hidden=7168,
    width=2048,
    routing=V3_ROUTING,
    parts=4,
)
MIXTRAL = Shape(
    name="8 experts, top 2, 4096/14336", experts=8, hidden=4096, width=14336,
    routing={"sigmoid": False, "top_k": 2, "n_group": 1, "topk_group": 1, "scaling": 1.0},
)  # fmt: skip


@dataclass
class Inputs:
    """Tokens and a router on the GPU."""

    x: Tensor
    w_router: Tensor
    bias: Tensor

    def point(self, params: Any) -> None:
        """Sets the parameters' pointers."""
        params.x, params.w_router = self.x.data_ptr(), self.w_router.data_ptr()
        params.router_bias = self.bias.data_ptr()

    def routed(self, routing: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Weights and experts by torch."""
        return moe_peers.route(self.logits, self.bias, **routing)

    @property
    def logits(self) -> Tensor:
        """[T, E] in FP32."""
        return self.x.float() @ self.w_router.T


def draw(shape: Shape, tokens: int, device: str) -> Inputs:
    """Random tokens; the router spreads them evenly."""
    return Inputs(
        x=torch.randn(tokens, shape.hidden, device=device, dtype=torch.bfloat16),
        w_router=torch.randn(shape.experts, shape.hidden, device=device) * shape.hidden**-0.5,
        bias=torch.rand(shape.experts, device=device) * 0.02,
    )


def weights_of(shape: Shape, rows: int, columns: int, dtype: torch.dtype, device: str) -> Tensor:
    """Random weights, drawn expert by expert: all at once in FP32 would not fit."""
    out = torch.empty(shape.experts, rows, columns, dtype=dtype, device=device)
    unit = 8.0 if dtype == torch.float8_e4m3fn else columns**-0.5
    for expert in out:
        expert.copy_(torch.randn(rows, columns, device=device) * unit)
    return out
