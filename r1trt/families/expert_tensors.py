"""Which tensors of a checkpoint belong to its experts: those of one, and those with a row for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from r1trt.config import ModelConfig, MoeConfig
from r1trt.families.family import NEXTN_LAYERS
from r1trt.families.registry import family_of
from r1trt.families.tensors import LAYER, LayerTensor


@dataclass(frozen=True, kw_only=True)
class ExpertTensor:
    """A tensor of experts.

    Attributes:
        layer: Index of the decoder layer.
        expert: Whose it is; None where it has a row for each, as the router's have.
        row: Its name after the layer's prefix, with `{expert}` for the index.
    """

    layer: int
    expert: int | None
    row: str

    def name_of(self, expert: int) -> str:
        """The name of the same tensor of another expert."""
        return LAYER.format(layer=self.layer) + self.row.format(expert=expert)


def expert_tensors(config: ModelConfig) -> dict[str, ExpertTensor]:
    """All of them by name, scales of FP8 weights not among them."""
    found: dict[str, ExpertTensor] = {}
    rows = [row for row in family_of(config).tensors if isinstance(row, LayerTensor)]
    for index, layer in enumerate(config.layers):
        if not isinstance(layer.mlp, MoeConfig):
            continue
        for row in (row for row in rows if row.when(layer)):
            place = ExpertTensor(layer=index, expert=None, row=row.name)
            if row.shape[:1] == ("E",):
                found[LAYER.format(layer=index) + row.name] = place
            elif "{expert}" in row.name:
                of_each = (replace(place, expert=expert) for expert in range(layer.mlp.num_experts))
                found |= {item.name_of(item.expert or 0): item for item in of_each}
    return found


def with_experts(config: ModelConfig, raw: Mapping[str, object], count: int) -> dict[str, object]:
    """A config.json with another number of routed experts, said by every key that says it.

    Layers behind the last, which have experts of their own, are not said to be there any more.
    """
    keys = family_of(config).moe_names.counts
    changed: dict[str, object] = {key: count for key in keys if key in raw}
    if config.num_nextn_layers:
        changed[NEXTN_LAYERS] = 0
    return {**raw, **changed}
