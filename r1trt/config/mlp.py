"""Kinds of MLP: dense, and a mixture of experts with adaptive top-k routing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from r1trt.config.checks import (
    MAX_EXPERTS,
    MAX_WIDTH,
    require,
    require_choice,
    require_number,
    require_size,
)

Scoring = Literal["softmax", "sigmoid"]
TopkMethod = Literal["greedy", "group_limited_greedy", "noaux_tc"]


@dataclass(frozen=True, kw_only=True)
class DenseConfig:
    """One SwiGLU for all tokens.

    Attributes:
        width: Intermediate size.
        bias: The three projections have biases.
    """

    width: int
    bias: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError for a width out of range."""
        require_size("intermediate_size", self.width, MAX_WIDTH)

    @property
    def symbols(self) -> Mapping[str, int]:
        """Sizes by their symbols in tables of tensors."""
        return {"F": self.width}

    @property
    def is_continuous(self) -> bool:
        """A small change of the input makes a small one of the output."""
        return True


@dataclass(frozen=True, kw_only=True)
class MoeConfig:
    """Mixture of experts with adaptive top-k routing.

    Attributes:
        num_experts: Routed experts of a layer.
        expert_width: Intermediate size of one routed expert.
        shared_width: Intermediate size of all shared experts together; 0 means that there are none.
        scoring: Function from router logits to scores; "sigmoid" comes with a correction bias.
        topk_method: How groups are scored, see the operator.
        top_k: Most experts of a token.
        top_k_min: Fewest experts of a token.
        adaptive_threshold: Share of the candidates' weight that is enough; >= 1 is plain top-k.
        norm_topk_prob: Weights are divided by their sum.
        routed_scaling_factor: Factor on the routed experts' weights.
        n_group: Equal groups of experts; 1 switches grouping off.
        topk_group: Groups kept for a token.
    """

    num_experts: int
    expert_width: int
    shared_width: int = 0
    scoring: Scoring = "softmax"
    topk_method: TopkMethod = "greedy"
    top_k: int = 2
    top_k_min: int = 1
    adaptive_threshold: float = 1.0
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    n_group: int = 1
    topk_group: int = 1

    def __post_init__(self) -> None:
        """Raises ConfigError for a value out of range or a contradiction between values."""
        require_size("num_experts", self.num_experts, MAX_EXPERTS)
        require_size("moe_intermediate_size", self.expert_width, MAX_WIDTH)
        require_size("shared_intermediate_size", self.shared_width, MAX_WIDTH, minimum=0)
        require_choice("scoring", self.scoring, ("softmax", "sigmoid"))
        require_choice("topk_method", self.topk_method, ("greedy", "group_limited_greedy", "noaux_tc"))
        require_size("top_k", self.top_k, self.num_experts)
        require_size("top_k_min", self.top_k_min, self.top_k)
        require_number("adaptive_threshold", self.adaptive_threshold, minimum=0, exclusive=True)
        require_number("routed_scaling_factor", self.routed_scaling_factor, minimum=0, exclusive=True)
        require_size("n_group", self.n_group, self.num_experts)
        require_size("topk_group", self.topk_group, self.n_group)
        self._check_groups()

    def _check_groups(self) -> None:
        require(
            self.num_experts % self.n_group == 0,
            "experts do not form equal groups",
            found=f"num_experts {self.num_experts}, n_group {self.n_group}",
            expected="num_experts divisible by n_group",
        )
        if self.n_group == 1:
            return
        group_size = self.num_experts // self.n_group
        require(
            self.topk_method != "greedy",
            "greedy routing has no groups",
            found=f"n_group {self.n_group}",
            expected="noaux_tc or group_limited_greedy",
        )
        require(
            self.topk_method != "noaux_tc" or group_size >= 2,
            "a group is scored by its two highest experts",
            found=f"{group_size} expert a group",
            expected="at least 2",
        )
        require(
            self.topk_group * group_size >= self.top_k,
            "the kept groups hold fewer experts than top_k",
            found=f"{self.topk_group} groups of {group_size}, top_k {self.top_k}",
            expected="topk_group * num_experts / n_group >= top_k",
        )

    @property
    def symbols(self) -> Mapping[str, int]:
        """Sizes by their symbols in tables of tensors."""
        return {"E": self.num_experts, "M": self.expert_width, "Ms": self.shared_width}

    @property
    def is_continuous(self) -> bool:
        """A small change of the input makes a small one of the output: not where a router decides."""
        return False


MlpConfig: TypeAlias = DenseConfig | MoeConfig
"""The MLP of a layer."""
