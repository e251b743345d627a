"""How many experts stay, and which.

A checkpoint has one number of experts for all layers, and its router takes equal groups of neighbours: every
layer keeps as many, every group of it too, and in their order.

Legend: E experts of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from r1trt.config import MoeConfig
from r1trt.errors import ConfigError
from r1trt.prune.config import PruneConfig
from r1trt.prune.scores import LayerScores

_ROUNDING = 1e-9
"""A share such as 0.3 of 10 experts is 3 of them."""


@dataclass(frozen=True, kw_only=True)
class LayerChoice:
    """Which experts of a layer stay.

    Attributes:
        scores: What they did on the text.
        kept: Indices of those that stay, ascending.
    """

    scores: LayerScores
    kept: tuple[int, ...]

    @property
    def removed(self) -> tuple[int, ...]:
        """Indices of the others, ascending."""
        return tuple(sorted(set(range(len(self.scores.tokens_E))) - set(self.kept)))

    @property
    def removed_tokens(self) -> float:
        """The part of the experts' tokens that went to those that are removed."""
        return self._removed_part(self.scores.tokens_E)

    @property
    def removed_contribution(self) -> float:
        """The part of all contributions that those that are removed made."""
        return self._removed_part(self.scores.contribution_E)

    def _removed_part(self, values_E: NDArray[np.float64]) -> float:
        whole = float(values_E.sum())
        return float(values_E[list(self.removed)].sum()) / whole if whole else 0.0


def kept_count(moe: MoeConfig, config: PruneConfig) -> int:
    """How many experts each layer keeps.

    Raises:
        ConfigError: Nothing would be removed, or tokens could not be routed as before.
    """
    count = config.keep
    if count is None:
        assert config.remove is not None, "a pruning has one of both"
        count = moe.num_experts - int(config.remove * moe.num_experts + _ROUNDING)
    if count >= moe.num_experts:
        raise ConfigError(
            "Nothing would be removed.",
            found=f"{count} experts to keep of {moe.num_experts} a layer",
            expected=f"at most {moe.num_experts - 1}",
            fix=_fix(moe, count),
        )
    if count < moe.top_k:
        raise ConfigError(
            "A token needs more experts than would be left.",
            found=f"{count} of {moe.num_experts} experts left, {moe.top_k} a token",
            expected=f"at least {moe.top_k}",
            fix=_fix(moe, count),
        )
    _check_groups(moe, count)
    return count


def _check_groups(moe: MoeConfig, count: int) -> None:
    size, rest = divmod(count, moe.n_group)
    if rest:
        raise ConfigError(
            "The groups of experts would become unequal.",
            found=f"{count} experts left in {moe.n_group} groups",
            expected=f"a multiple of {moe.n_group}",
            fix=_fix(moe, count),
        )
    needed = _least_of_group(moe)
    if size < needed:
        raise ConfigError(
            "The groups that a token may use would hold fewer experts than it needs.",
            found=f"{size} experts a group; a token takes {moe.top_k} experts of {moe.topk_group} groups",
            expected=f"at least {needed} a group",
            fix=_fix(moe, count),
        )


def _least_of_group(moe: MoeConfig) -> int:
    """Fewest experts of a group that route as before: a group's score may be the sum of its two highest."""
    scored = 2 if moe.n_group > 1 and moe.topk_method == "noaux_tc" else 1
    return max(scored, -(-moe.top_k // moe.topk_group))


def _fix(moe: MoeConfig, count: int) -> str:
    possible = list(_possible(moe))
    if not possible:
        return "none of this model's experts can be removed"
    near = sorted(sorted(possible, key=lambda other: abs(other - count))[:2])
    return " or ".join(f"--keep {other}" for other in near)


def _possible(moe: MoeConfig) -> Iterator[int]:
    """All numbers of experts that could be kept."""
    for size in range(_least_of_group(moe), moe.num_experts // moe.n_group):
        if size * moe.n_group >= moe.top_k:
            yield size * moe.n_group


def choose_experts(
    scores: Sequence[LayerScores], moe: MoeConfig, count: int, config: PruneConfig
) -> list[LayerChoice]:
    """Choose in each layer the experts that stay: of every group the same number, by the criterion.

    Args:
        scores: Of all layers with experts.
        moe: Their configuration.
        count: How many stay; see `kept_count`.
        config: The criterion.
    """
    return [LayerChoice(scores=item, kept=_kept(item, moe.n_group, count, config)) for item in scores]


def _kept(scores: LayerScores, groups: int, count: int, config: PruneConfig) -> tuple[int, ...]:
    """Of equal ones those stay that do better by the other criterion, then those of lower index."""
    experts = np.arange(len(scores.tokens_E))
    first, second = _keys(scores, config)
    best_first = np.lexsort((experts, -second, -first))
    size, kept = len(experts) // groups, list[int]()
    for group in range(groups):
        own = [int(expert) for expert in best_first if expert // size == group]
        kept += own[: count // groups]
    return tuple(sorted(kept))


def _keys(scores: LayerScores, config: PruneConfig) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What experts are ordered by, [E] each."""
    if config.criterion == "reap":
        return scores.saliency_E, scores.tokens_E
    if config.criterion == "frequency":
        return scores.tokens_E, scores.saliency_E
    generator = np.random.default_rng([config.seed or 0, scores.layer])
    order_E = generator.permutation(len(scores.tokens_E)).astype(np.float64)
    return order_E, order_E
