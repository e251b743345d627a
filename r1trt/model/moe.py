"""Dynamic mixture of experts: two-stage routing with adaptive k, and a loop over the experts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from r1trt.config import MoeConfig
from r1trt.model.norm import widened

NORMALIZATION_EPSILON = 1e-20


@dataclass(frozen=True, kw_only=True)
class Routing:
    """Where a layer sends its tokens.

    Attributes:
        experts_TK: The candidates in order of falling selection score, int64.
        weights_TK: Their weights in the sum of experts; 0 where not kept.
        kept_TK: Which candidates adaptive k keeps.
        margin_T: Distance, in scores, to the nearest other decision: another expert, another group or another
            k. Infinite where nothing else is possible.
    """

    experts_TK: Tensor
    weights_TK: Tensor
    kept_TK: Tensor
    margin_T: Tensor


class SwiGlu(nn.Module):
    """`W_down (silu(W_gate x) * (W_up x))`.

    Args:
        hidden_size: Width of input and output.
        width: Intermediate width.
        bias: All three projections have biases.
    """

    def __init__(self, hidden_size: int, width: int, *, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, width, bias=bias)
        self.up_proj = nn.Linear(hidden_size, width, bias=bias)
        self.down_proj = nn.Linear(width, hidden_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[..., hidden_size]` to the same shape."""
        y: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return y


class Router(nn.Module):
    """Scores, groups, top k and adaptive k; all of it in at least FP32.

    Args:
        config: The mixture of experts.
        hidden_size: Width of the tokens.
    """

    def __init__(self, config: MoeConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.zeros(config.num_experts, hidden_size))
        self.e_score_correction_bias = None
        if config.scoring == "sigmoid":
            # NOTES: moved by load balancing and not by gradients, as in DeepSeek-V3.
            bias = torch.zeros(config.num_experts)
            self.e_score_correction_bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, x_TD: Tensor) -> Routing:
        """Routes tokens; ties go to the lower expert (or group) index."""
        logits = F.linear(widened(x_TD), widened(self.weight))
        scores = logits.softmax(-1) if self.config.scoring == "softmax" else logits.sigmoid()
        selection = scores
        if self.e_score_correction_bias is not None:
            selection = scores + widened(self.e_score_correction_bias)
        selection, group_margin_T = self._within_best_groups(selection)
        ordered, order = selection.sort(dim=-1, descending=True, stable=True)
        experts = order[:, : self.config.top_k]
        candidates = scores.gather(1, experts)
        kept, k_margin_T = self._adaptive_k(candidates)
        margin = torch.stack([group_margin_T, k_margin_T, self._order_margin(ordered)]).amin(0)
        return Routing(
            experts_TK=experts, weights_TK=self._weights(candidates, kept), kept_TK=kept, margin_T=margin
        )

    def _within_best_groups(self, selection_TE: Tensor) -> tuple[Tensor, Tensor]:
        """Puts all but the best groups at -inf; also returns the gap between the last taken and the next."""
        config, infinite_T = self.config, selection_TE.new_full(selection_TE.shape[:1], math.inf)
        if config.n_group == 1:
            return selection_TE, infinite_T
        grouped = selection_TE.view(-1, config.n_group, config.num_experts // config.n_group)
        best = 1 if config.topk_method == "group_limited_greedy" else min(2, grouped.shape[-1])
        ordered, order = grouped.topk(best).values.sum(-1).sort(dim=-1, descending=True, stable=True)
        taken = torch.zeros_like(ordered, dtype=torch.bool).scatter(1, order[:, : config.topk_group], True)
        masked = grouped.masked_fill(~taken[..., None], -math.inf).flatten(1)
        if config.topk_group == config.n_group:
            return masked, infinite_T
        return masked, ordered[:, config.topk_group - 1] - ordered[:, config.topk_group]

    def _adaptive_k(self, weights_TK: Tensor) -> tuple[Tensor, Tensor]:
        """Keeps the fewest candidates that reach the threshold; also returns how near another k is."""
        config = self.config
        if config.adaptive_threshold >= 1 or config.top_k == config.top_k_min:
            infinite_T = weights_TK.new_full(weights_TK.shape[:1], math.inf)
            return torch.ones_like(weights_TK, dtype=torch.bool), infinite_T
        reached = weights_TK.cumsum(-1)
        needed = config.adaptive_threshold * weights_TK.sum(-1, keepdim=True)
        before = F.pad(reached[:, :-1], (1, 0))
        rank = torch.arange(config.top_k, device=weights_TK.device)
        kept = (rank < config.top_k_min) | (before < needed)
        margin_T = (reached - needed)[:, config.top_k_min - 1 : -1].abs().amin(-1)
        return kept, margin_T

    def _order_margin(self, ordered_TE: Tensor) -> Tensor:
        """The least gap of selection scores that matters: at top k, and inside it with adaptive k."""
        config = self.config
        first = config.top_k - 1 if config.adaptive_threshold >= 1 else 0
        last = min(config.top_k, config.num_experts - 1)
        gaps = ordered_TE[:, first:last] - ordered_TE[:, first + 1 : last + 1]
        return gaps.amin(-1) if gaps.shape[1] else ordered_TE.new_full(ordered_TE.shape[:1], math.inf)

    def _weights(self, candidates_TK: Tensor, kept_TK: Tensor) -> Tensor:
        weights = candidates_TK.masked_fill(~kept_TK, 0)
        if self.config.norm_topk_prob:
            weights = weights / (weights.sum(-1, keepdim=True) + NORMALIZATION_EPSILON)
        return weights * self.config.routed_scaling_factor


class DynamicMoe(nn.Module):
    """Routed experts, each computed for its own tokens only, plus an optional shared expert.

    Args:
        config: The mixture of experts.
        hidden_size: Width of the tokens.
    """

    def __init__(self, config: MoeConfig, hidden_size: int) -> None:
        super().__init__()
        self.router = Router(config, hidden_size)
        self.experts = nn.ModuleList(
            SwiGlu(hidden_size, config.expert_width) for _ in range(config.num_experts)
        )
        self.shared_expert = SwiGlu(hidden_size, config.shared_width) if config.shared_width else None

    def forward(self, x_BSD: Tensor, valid_BS: Tensor) -> Tensor:
        """Returns `[B, S, D]`; padding is routed nowhere and gives 0."""
        y_BSD = torch.zeros_like(x_BSD)
        y_BSD[valid_BS] = self._tokens(x_BSD[valid_BS])
        return y_BSD

    def _tokens(self, x_TD: Tensor) -> Tensor:
        routing: Routing = self.router(x_TD)
        y_TD = torch.zeros_like(widened(x_TD))
        for index, expert in enumerate(self.experts):
            token, rank = ((routing.experts_TK == index) & routing.kept_TK).nonzero(as_tuple=True)
            if token.numel() == 0:
                continue
            weighted = widened(expert(x_TD[token])) * routing.weights_TK[token, rank, None]
            y_TD = y_TD.index_add(0, token, weighted)
        if self.shared_expert is not None:
            y_TD = y_TD + widened(self.shared_expert(x_TD))
        return y_TD.to(x_TD.dtype)
