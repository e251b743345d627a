"""What a model family is: the keys of its config.json, its layers, and the tensors of its checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from r1trt.config import LayerConfig, ModelConfig, RopeConfig
from r1trt.families.keys import Keys
from r1trt.families.quantization_keys import block_fp8_config
from r1trt.families.rope_keys import rope_config
from r1trt.families.tensors import IGNORED_BUFFERS, R1_ASA_NAMES, TIED_HEAD, MoeNames, Tensor

NEXTN_LAYERS = "num_nextn_predict_layers"
"""Key of config.json: how many layers a checkpoint holds behind the last."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family: everything that tells it from the others.

    Attributes:
        name: `model_type` in config.json.
        architecture: Hugging Face's class name.
        layers: Reads what the decoder layers are; refuses by name what is not implemented.
        tensors: What a checkpoint must hold.
        rope: Reads the rotation of heads of so many elements.
        ignored: What a checkpoint may hold besides, without being used.
        moe_names: Names inside the MLP of a layer with experts.
        in_transformers: The library `transformers` knows the family, and is the reference of validation.
    """

    name: str
    architecture: str
    layers: Callable[[Keys], tuple[LayerConfig, ...]]
    tensors: tuple[Tensor, ...]
    rope: Callable[[Keys, int], RopeConfig] = rope_config
    ignored: tuple[Tensor, ...] = (*IGNORED_BUFFERS, TIED_HEAD)
    moe_names: MoeNames = R1_ASA_NAMES
    in_transformers: bool = True

    def config_from_keys(self, keys: Keys) -> ModelConfig:
        """Reads a config.json of this family.

        Raises:
            ConfigError: An option is not implemented, a key is missing or malformed, or keys contradict each
                other.
        """
        _refuse_unimplemented(keys)
        layers = self.layers(keys)
        return ModelConfig(
            family=self.name,
            architecture=self.architecture,
            vocab_size=keys.integer("vocab_size"),
            hidden_size=keys.integer("hidden_size"),
            rms_norm_eps=keys.number("rms_norm_eps"),
            tie_word_embeddings=keys.boolean("tie_word_embeddings", False),
            max_position_embeddings=keys.integer("max_position_embeddings"),
            eos_token_ids=_eos_token_ids(keys),
            rope=self.rope(keys, layers[0].attention.rope_dim),
            layers=layers,
            num_nextn_layers=keys.integer(NEXTN_LAYERS, 0),
            quantization=block_fp8_config(keys),
        )


def _refuse_unimplemented(keys: Keys) -> None:
    activation = keys.text("hidden_act", "silu")
    if activation != "silu":
        keys.refuse("activation is not implemented", found=repr(activation), expected="'silu'")
    layer_types = keys.raw.get("layer_types") or []
    if not isinstance(layer_types, list):
        keys.refuse("layer_types is not a list", found=repr(layer_types)[:200], expected="a list of strings")
    odd = sorted({repr(kind) for kind in layer_types if kind != "full_attention"})
    if odd:
        keys.refuse("layer_types asks for other attention", found=", ".join(odd), expected="'full_attention'")


def _eos_token_ids(keys: Keys) -> tuple[int, ...]:
    value = keys.raw.get("eos_token_id")
    tokens = [] if value is None else value if isinstance(value, list) else [value]
    if any(isinstance(token, bool) or not isinstance(token, int) for token in tokens):
        keys.refuse("eos_token_id is not usable", found=repr(value), expected="an integer or a list of them")
    return tuple(dict.fromkeys(tokens))
