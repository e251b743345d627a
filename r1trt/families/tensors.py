"""Tables of tensors: one row a weight, names and shapes as Hugging Face checkpoints have them.

Symbols of the shapes: V vocabulary, D hidden size, d head size, H query heads, Q elements of all query heads,
KV elements of all key/value heads (MLA: of keys and values without their rotated part), O elements of all
value heads, Rq and R elements of MLA's low ranks, L those of R and the rotated key, F width of a dense MLP, E
experts, M width of one expert, Ms width of all shared experts together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from r1trt.config import LayerConfig, ModelConfig

WEIGHT_DTYPES = ("F32", "BF16", "F16")
"""Types of weights that an export accepts, as safetensors names them."""

LAYER = "model.layers.{layer}."
_ANY_LAYER = r"model\.layers\.\d{1,6}\."
_NUMBER_OF_EXPERT = re.compile(r"experts\.\d{1,6}\.")
_NUMBERED = re.compile(r"model\.layers\.(\d{1,6})\.(.*)")


def _always(owner: object) -> bool:
    return True


@dataclass(frozen=True)
class ModelTensor:
    """One weight of the model.

    Attributes:
        name: The tensor's name.
        shape: Symbols of its dimensions.
        when: Says whether a model has it.
    """

    name: str
    shape: tuple[str, ...]
    when: Callable[[ModelConfig], bool] = _always


@dataclass(frozen=True)
class LayerTensor:
    """One weight of every layer, or of every expert of it.

    Attributes:
        name: The tensor's name after the layer's prefix; `{expert}` stands for every expert's index.
        shape: Symbols of its dimensions.
        when: Says whether a layer has it.
    """

    name: str
    shape: tuple[str, ...]
    when: Callable[[LayerConfig], bool] = _always


@dataclass(frozen=True)
class NextnTensor:
    """One weight of the layers behind the last (`num_nextn_predict_layers`), of whatever shape.

    Attributes:
        name: The tensor's name after the layer's prefix; `{expert}` stands for any expert's index.
    """

    name: str


Tensor: TypeAlias = ModelTensor | LayerTensor | NextnTensor


@dataclass(frozen=True, kw_only=True)
class MoeNames:
    """What a family calls the parts of an MLP with experts.

    Attributes:
        router: The router.
        shared: The shared experts, which are one MLP.
        counts: Keys of config.json that say how many routed experts a layer has; the first one is read, the
            others are what `transformers` also takes for it.
    """

    router: str
    shared: str
    counts: tuple[str, ...]


R1_ASA_NAMES = MoeNames(router="router", shared="shared_expert", counts=("num_experts",))


def _is_untied(model: ModelConfig) -> bool:
    return not model.tie_word_embeddings


def _is_tied(model: ModelConfig) -> bool:
    return model.tie_word_embeddings


MODEL_TENSORS = (
    ModelTensor("model.embed_tokens.weight", ("V", "D")),
    ModelTensor("model.norm.weight", ("D",)),
    ModelTensor("lm_head.weight", ("V", "D"), _is_untied),
)
"""The two ends of a decoder."""

TIED_HEAD = ModelTensor("lm_head.weight", ("V", "D"), _is_tied)
"""A head that some files hold although it is the embedding."""

IGNORED_BUFFERS = (
    # Older transformers saved the frequencies, which follow from the config.
    LayerTensor("self_attn.rotary_emb.inv_freq", ()),
    ModelTensor("model.rotary_emb.inv_freq", ()),
)
"""Unused, so that they may have any shape."""


def tensors_from_table(table: Iterable[Tensor], config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Lists the tensors that a table names for a configuration.

    Args:
        table: Rows of a family.
        config: A validated configuration.

    Returns:
        Shapes by tensor name.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    sizes = {"V": config.vocab_size, "D": config.hidden_size}
    rows = tuple(table)
    for row in rows:
        if isinstance(row, ModelTensor) and row.when(config):
            shapes[row.name] = tuple(sizes[symbol] for symbol in row.shape)
    for index, layer in enumerate(config.layers):
        of_layer = {**sizes, **layer.attention.symbols, **layer.mlp.symbols}
        for row in rows:
            if isinstance(row, LayerTensor) and row.when(layer):
                shape = tuple(of_layer[symbol] for symbol in row.shape)
                shapes.update(dict.fromkeys(_names(row, index, of_layer), shape))
    return shapes


def is_in_table(table: Iterable[Tensor], config: ModelConfig, name: str) -> bool:
    """Says whether a table names a tensor, of whatever layer and shape, for this configuration."""
    for row in table:
        if isinstance(row, ModelTensor):
            if row.name == name and row.when(config):
                return True
        elif isinstance(row, NextnTensor):
            if nextn_layer(config, name) is not None and row.name == _name_in_layer(name):
                return True
        elif re.fullmatch(_ANY_LAYER + re.escape(row.name), name):
            return True
    return False


def may_be_fp8(config: ModelConfig, name: str) -> bool:
    """Says whether a checkpoint of this configuration may hold a tensor in FP8: projections, experts' too."""
    module, _, parameter = name.rpartition(".")
    if config.quantization is None or parameter != "weight" or config.quantization.leaves_out(module):
        return False
    return "_proj" in module.rpartition(".")[2]


def place_of_name(name: str) -> tuple[int, str] | None:
    """Index of the decoder layer that a tensor or a node belongs to, and what stands behind; None outside."""
    found = _NUMBERED.fullmatch(name)
    return None if found is None else (int(found[1]), found[2])


def nextn_layer(config: ModelConfig, name: str) -> int | None:
    """Index of a tensor's layer, if it is one of those behind the last of this configuration."""
    place, first = place_of_name(name), config.num_layers
    if place is None or not first <= place[0] < first + config.num_nextn_layers:
        return None
    return place[0]


def _name_in_layer(name: str) -> str:
    """A tensor's name after its layer's prefix, with `{expert}` for an expert's index."""
    inside = _NUMBERED.sub(r"\2", name)
    return _NUMBER_OF_EXPERT.sub("experts.{expert}.", inside)


def _names(row: LayerTensor, index: int, sizes: Mapping[str, int]) -> Iterator[str]:
    pattern = LAYER.format(layer=index) + row.name
    if "{expert}" not in row.name:
        yield pattern
        return
    for expert in range(sizes["E"]):
        yield pattern.format(expert=expert)
