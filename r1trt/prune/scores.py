"""What every expert does on a text, measured inside the exported graph while it reads.

Legend: E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from r1trt.calibrate.runner import Runner
from r1trt.calibrate.statistics_cache import StatisticsCache
from r1trt.calibrate.text import TokenChunks
from r1trt.config import ModelConfig, MoeConfig
from r1trt.export.io import ExportedModel
from r1trt.lowerings.inner_statistics import EXPERT_SALIENCY, ROUTED_TOKENS
from r1trt.lowerings.statistics import Statistic
from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.ops.registry import layer_operator_of
from r1trt.passes.add_probes import Probe
from r1trt.precision.checks import layer_nodes
from r1trt.progress import Progress, ignore


@dataclass(frozen=True, kw_only=True)
class LayerScores:
    """What the experts of one layer did.

    Attributes:
        layer: Index of the decoder layer.
        tokens_E: How many tokens each was given.
        contribution_E: Sum over these tokens of the expert's weight times the L2 norm of its result.
    """

    layer: int
    tokens_E: NDArray[np.float64]
    contribution_E: NDArray[np.float64]

    @property
    def saliency_E(self) -> NDArray[np.float64]:
        """REAP's criterion: the mean contribution to a token; 0 of an expert that no token took."""
        mean_E: NDArray[np.float64] = self.contribution_E / np.maximum(self.tokens_E, 1.0)
        return mean_E


def expert_layers(config: ModelConfig) -> list[int]:
    """Indices of the decoder layers with experts."""
    return [index for index, layer in enumerate(config.layers) if isinstance(layer.mlp, MoeConfig)]


def expert_scores(
    export: ExportedModel, chunks: TokenChunks, progress: Progress = ignore
) -> list[LayerScores]:
    """Run a model on text, and score the experts of each of its layers that have some.

    What was measured before, of the same model on the same text, is not measured again.

    Args:
        export: The model.
        chunks: The text; each chunk starts with an empty cache.
        progress: Called with ("scoring experts", chunks done, chunks).

    Raises:
        PlanError: Results of experts are not finite.
    """
    probes = _probes(export)
    runner = Runner(
        model=export.model,
        weight_base=export.weight_base,
        probes=[probe for pair in probes for probe in pair],
        chunks=chunks,
        cache=StatisticsCache(export.model, export.weight_marks()),
        progress=progress,
    )
    numbers = runner.run("scoring experts", Statistic(amax=False, size=1))
    return [
        LayerScores(layer=layer, tokens_E=numbers[counts.name], contribution_E=numbers[sums.name])
        for layer, (counts, sums) in zip(expert_layers(export.config), probes, strict=True)
    ]


def _probes(export: ExportedModel) -> Sequence[tuple[Probe, Probe]]:
    """For each layer with experts what counts tokens, and what sums contributions."""
    found = []
    for key, node in layer_nodes(export.model).items():
        if layer_operator_of(node) is DYNAMIC_MOE:
            statistic = Statistic(amax=False, size=DYNAMIC_MOE.spec_from_node(node).num_experts)
            counts, sums = (
                Probe(name=f"{key}/{what}", layers=(key,), scale=what, statistic=statistic)
                for what in (ROUTED_TOKENS, EXPERT_SALIENCY)
            )
            found.append((counts, sums))
    return found
