"""Cheap scores of choices, to see what they are worth beside measured damages.

The Fisher score is KL's second order: half of the mean square of g d, where d is what a choice changes of
a product's result and g the gradient, with respect to that result, of the log-likelihood of a token that the
model itself has drawn. One forward and one backward pass give g for every layer. The error score is blind to
the model behind the layer: what a choice changes of the result, relative to the result.

Legend: S tokens of one window, K inputs, N outputs of a product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from r1trt.graph.block_codes import block_importance
from r1trt.graph.codes import CODE_TYPES, CodeType
from r1trt.graph.weight_grid import dequantized_weight, rounded_weight, scales_of_weight
from r1trt.ops.layer_precision import LayerPrecision
from r1trt.ops.product import grid_of_layer
from r1trt.progress import Progress, ignore
from r1trt.search.candidates import Choice, Group
from r1trt.search.chain import Array
from r1trt.search.damage import Damages

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class CheapScores:
    """Scores of choices whose layers are linears.

    Attributes:
        fisher: By group and kind, in nats.
        error: By group and kind, relative.
        fisher_correlation: Spearman's rank correlation of the Fisher scores with the measured damages; None
            where there is none.
        error_correlation: That of the error scores.
    """

    fisher: Mapping[str, Mapping[str, float]]
    error: Mapping[str, Mapping[str, float]]
    fisher_correlation: float | None
    error_correlation: float | None


def cheap_scores(
    module: nn.Module,
    groups: Sequence[Group],
    windows: Sequence[Array],
    damages: Damages,
    *,
    seed: int = 0,
    progress: Progress = ignore,
) -> CheapScores:
    """Score every choice of the groups that consist of linears.

    Args:
        module: The model in PyTorch, in FP32; modules are named as the plan's layers.
        groups: What is chosen from.
        windows: Token ids [S].
        damages: What was measured, for the correlations.
        seed: Of the tokens that are drawn.
        progress: Called with ("scoring", windows done, windows).
    """
    module.requires_grad_(False)
    linears = _linears(module)
    scored = [group for group in groups if all(name in linears for name in group.layers)]
    totals: dict[tuple[str, str], Array] = {}
    for done, window in enumerate(windows):
        progress("scoring", done, len(windows))
        chosen = {name: linears[name] for group in scored for name in group.layers}
        seen = _seen(module, chosen, window, seed + done)
        # A module can have a linear whose weight it uses in another way.
        scored = [group for group in scored if all(name in seen for name in group.layers)]
        for group in scored:
            for choice in group.choices[1:]:
                key = (group.name, choice.kind)
                totals[key] = totals.get(key, np.zeros(3)) + _sums(choice, linears, seen)
    progress("scoring", len(windows), len(windows))
    return _scores(totals, sum(map(len, windows)), damages)


def _scores(totals: Mapping[tuple[str, str], Array], tokens: int, damages: Damages) -> CheapScores:
    fisher: dict[str, dict[str, float]] = {}
    error: dict[str, dict[str, float]] = {}
    for (group, kind), (squares, changed, whole) in totals.items():
        fisher.setdefault(group, {})[kind] = float(0.5 * squares / tokens)
        error.setdefault(group, {})[kind] = float(changed / whole)
    return CheapScores(
        fisher=fisher,
        error=error,
        fisher_correlation=_correlation(fisher, damages),
        error_correlation=_correlation(error, damages),
    )


def _linears(module: nn.Module) -> dict[str, nn.Linear]:
    from torch import nn

    return {name: child for name, child in module.named_modules() if isinstance(child, nn.Linear)}


def _seen(
    module: nn.Module, linears: Mapping[str, nn.Linear], window: Array, seed: int
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Input [S, K], result [S, N] and its gradient [S, N] of each linear, for one window."""
    import torch

    kept: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str) -> Any:
        def hook(child: Any, inputs: Any, output: Any) -> Any:
            result = output.detach().requires_grad_(True) if not output.requires_grad else output
            result.retain_grad()
            kept[name] = (inputs[0].detach(), result)
            return result

        return hook

    handles = [linear.register_forward_hook(keep(name)) for name, linear in linears.items()]
    try:
        result = module(torch.from_numpy(np.asarray(window, np.int64))[None])
        logits_SV = getattr(result, "logits", result)[0]
        generator = torch.Generator().manual_seed(seed)
        drawn_S = torch.multinomial(logits_SV.detach().softmax(-1), 1, generator=generator)[:, 0]
        likelihood = logits_SV.log_softmax(-1).gather(1, drawn_S[:, None]).sum()
        likelihood.backward()
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for name, (x, y) in kept.items():
        gradient = torch.zeros_like(y) if y.grad is None else y.grad
        found[name] = tuple(item.reshape(-1, item.shape[-1]).detach() for item in (x, y, gradient))
    return found  # type: ignore[return-value]  # three of them each


def _sums(
    choice: Choice, linears: Mapping[str, nn.Linear], seen: Mapping[str, tuple[Tensor, Tensor, Tensor]]
) -> Array:
    """Sums over a window's tokens: squares of g d, of d, and of the results."""
    import torch

    along_S, changed, whole = torch.zeros(()), 0.0, 0.0
    with torch.no_grad():
        for name, layer in choice.layers.items():
            x, y, gradient = seen[name]
            delta = _quantized(x, linears[name].weight, layer) - x @ linears[name].weight.T
            along_S = along_S + (gradient * delta).sum(-1)
            changed += float(delta.square().sum())
            whole += float(y.square().sum())
        squares = float(along_S.square().sum())
    return np.array([squares, changed, whole])


def _quantized(x: Tensor, weight: Tensor, layer: LayerPrecision) -> Tensor:
    if layer.block_size is not None:
        return x @ _in_blocks(weight, layer).T
    if layer.weight_scale is not None:
        scale = np.asarray(layer.weight_scale, np.float32)
        weight = _rounded(weight, scale[:, None] if scale.ndim else scale, CODE_TYPES[str(layer.weight)])
    if layer.input_scale is not None:
        x = _rounded(x, np.asarray(layer.input_scale, np.float32), CODE_TYPES[layer.input])
    return x @ weight.T


def _in_blocks(weight: Tensor, layer: LayerPrecision) -> Tensor:
    """A weight rounded to nearest; activations are taken as they are, which cost a fraction of it."""
    import torch

    grid, values_NK = grid_of_layer(layer), weight.numpy()
    scales = scales_of_weight(values_NK, grid, block_importance(grid, values_NK.shape[1]))
    return torch.from_numpy(dequantized_weight(rounded_weight(values_NK, scales, grid), scales, grid))


def _rounded(values: Tensor, scale: Array, codes: CodeType) -> Tensor:
    import torch

    return torch.from_numpy(codes.codes(values.numpy(), scale).astype(np.float32) * scale)


def _correlation(scores: Mapping[str, Mapping[str, float]], damages: Damages) -> float | None:
    """None where too few choices were scored, or all alike."""
    from scipy.stats import spearmanr

    both = [
        (group, kind) for group, kinds in scores.items() for kind in kinds if kind in damages.get(group, {})
    ]
    if len(both) < 3:
        return None
    found = spearmanr(
        [scores[group][kind] for group, kind in both], [damages[group][kind].kl for group, kind in both]
    )
    return float(found.statistic) if np.isfinite(found.statistic) else None
