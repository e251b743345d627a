"""The one reader of Hugging Face's config.json keys.

What the project does not implement is refused here, by name, rather than ignored: an exported graph that
silently leaves a sliding window out would be a wrong model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

from r1trt.config.model import (
    MAX_EXPERTS,
    MAX_POSITIONS,
    MAX_WIDTH,
    ROPE_OPTIONAL,
    ROPE_REQUIRED,
    Family,
    HlaConfig,
    InterBlock,
    ModelConfig,
    MoeConfig,
    RopeConfig,
    RopeKind,
    Scoring,
    require_number,
    require_size,
)
from r1trt.errors import ConfigError

FAMILY_OF_ARCHITECTURE: Mapping[str, Family] = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "R1AsaForCausalLM": "r1_asa",
}

# R1-ASA's keys are this project's own, so that a misspelt one can be told from a foreign one.
R1_ASA_KEYS = frozenset(
    {
        "num_experts", "moe_intermediate_size", "num_shared_experts", "shared_intermediate_size", "top_k",
        "top_k_min", "adaptive_threshold", "scoring", "norm_topk_prob", "routed_scaling_factor", "n_group",
        "topk_group", "first_k_dense_replace", "hla_block_size", "hla_inter_block", "hla_lam_skip",
        "hla_gate", "rope_parameters", "rope_scaling", "rope_theta", "rope_temperature_alpha",
        "original_max_position_embeddings",
    }
)  # fmt: skip
R1_ASA_PREFIXES = (
    "adaptive_", "first_k_", "hla_", "moe_", "n_group", "norm_topk", "num_expert", "num_shared",
    "original_max", "rope_", "routed_", "scoring", "shared_", "top_k", "topk_",
)  # fmt: skip


class _Keys:
    """Typed access to a config.json dict; every refusal names the key and the file."""

    def __init__(self, raw: Mapping[str, Any], where: Path) -> None:
        self.raw = raw
        self.where = where

    def refuse(self, message: str, *, found: object, expected: object, fix: str | None = None) -> NoReturn:
        raise ConfigError(message, where=self.where, found=found, expected=expected, fix=fix)

    def has(self, key: str) -> bool:
        return self.raw.get(key) is not None

    def _value(self, key: str, default: object, expected: str) -> object:
        value = self.raw.get(key)
        if value is not None:
            return value
        if default is None:
            self.refuse(f"config lacks '{key}'", found="no value", expected=expected)
        return default

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._value(key, default, "an integer")
        if isinstance(value, bool) or not isinstance(value, int):
            self.refuse(f"config key '{key}' is not an integer", found=repr(value), expected="an integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._value(key, default, "a number")
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(f"config key '{key}' is not a number", found=repr(value), expected="a number")
        if isinstance(value, int) and abs(value) > MAX_POSITIONS:
            self.refuse(f"config key '{key}' is absurdly large", found=repr(value)[:40], expected="a number")
        return float(value)

    def boolean(self, key: str, default: bool | None = None) -> bool:
        value = self._value(key, default, "true | false")
        if not isinstance(value, bool):
            self.refuse(f"config key '{key}' is not a boolean", found=repr(value), expected="true | false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._value(key, default, "a string")
        if not isinstance(value, str):
            self.refuse(f"config key '{key}' is not a string", found=repr(value), expected="a string")
        return value


def model_config_from_dict(raw: Mapping[str, Any], *, where: Path) -> ModelConfig:
    """Reads a Hugging Face config.json dict.

    Args:
        raw: The parsed config.json of a Llama, Qwen2 or R1-ASA causal language model.
        where: The file it was read from, for messages.

    Returns:
        The validated configuration.

    Raises:
        ConfigError: The architecture or an option of it is not implemented, a key is missing or malformed, or
            keys contradict each other.
    """
    keys = _Keys(raw, where)
    architecture = _architecture(keys)
    _refuse_unimplemented(keys, FAMILY_OF_ARCHITECTURE[architecture])
    try:
        return _model_config(keys, architecture)
    except ConfigError as error:
        if "where" in error.details:
            raise
        raise ConfigError(
            error.message,
            where=where,
            found=error.details.get("found"),
            expected=error.details.get("expected"),
            fix=error.details.get("fix"),
        ) from error


def _architecture(keys: _Keys) -> str:
    named = keys.raw.get("architectures")
    known = ", ".join(FAMILY_OF_ARCHITECTURE)
    if not (isinstance(named, list) and len(named) == 1 and isinstance(named[0], str)):
        keys.refuse("config does not name one architecture", found=repr(named), expected=f"one of {known}")
    architecture = named[0]
    if architecture not in FAMILY_OF_ARCHITECTURE:
        keys.refuse(
            f"architecture {architecture!r} is not supported",
            found=architecture,
            expected=f"one of {known}",
            fix="take a checkpoint of a supported architecture, e.g. an R1-Distill-Qwen or R1-Distill-Llama",
        )
    family, model_type = FAMILY_OF_ARCHITECTURE[architecture], keys.raw.get("model_type")
    if model_type is not None and model_type != family:
        keys.refuse("model_type contradicts the architecture", found=repr(model_type), expected=repr(family))
    return architecture


def _refuse_unimplemented(keys: _Keys, family: Family) -> None:
    if keys.has("quantization_config"):
        method = keys.raw["quantization_config"]
        name = method.get("quant_method") if isinstance(method, Mapping) else method
        keys.refuse(
            "quantized checkpoints are not supported",
            found=f"quantization_config ({name!r})",
            expected="BF16, FP16 or FP32 weights",
            fix="take the checkpoint's unquantized release; FP8 is chosen at build time",
        )
    activation = keys.text("hidden_act", "silu")
    if activation != "silu":
        keys.refuse("activation is not implemented", found=repr(activation), expected="'silu'")
    if family == "qwen2":
        _refuse_sliding_window(keys)
    layer_types = keys.raw.get("layer_types") or []
    if not isinstance(layer_types, list):
        keys.refuse("layer_types is not a list", found=repr(layer_types)[:200], expected="a list of strings")
    odd = sorted({repr(kind) for kind in layer_types if kind != "full_attention"})
    if odd:
        keys.refuse("layer_types asks for other attention", found=", ".join(odd), expected="'full_attention'")
    if family == "r1_asa":
        _refuse_misspelt(keys)


def _refuse_sliding_window(keys: _Keys) -> None:
    if not keys.boolean("use_sliding_window", False) or not keys.has("sliding_window"):
        return
    # NOTES: transformers gives the window to the layers from max_window_layers on, so it may reach none.
    first, layers = keys.integer("max_window_layers", 0), keys.integer("num_hidden_layers")
    if first < layers:
        keys.refuse(
            "sliding-window attention is not implemented",
            found=f"use_sliding_window true, layers {first} to {layers - 1}",
            expected="use_sliding_window false",
            fix="set use_sliding_window to false only if prompts stay below the window: "
            "the model then means the same",
        )


def _refuse_misspelt(keys: _Keys) -> None:
    unknown = sorted(k for k in map(str, keys.raw) if k.startswith(R1_ASA_PREFIXES) and k not in R1_ASA_KEYS)
    if unknown:
        keys.refuse("config has unknown R1-ASA keys", found=", ".join(unknown), expected=sorted(R1_ASA_KEYS))
    for key in ("attention_bias", "mlp_bias"):
        if keys.boolean(key, False):
            keys.refuse(f"R1-ASA has no {key}", found="true", expected="false")


def _model_config(keys: _Keys, architecture: str) -> ModelConfig:
    family = FAMILY_OF_ARCHITECTURE[architecture]
    is_asa = family == "r1_asa"
    heads, hidden = keys.integer("num_attention_heads"), keys.integer("hidden_size")
    first_dense = keys.integer("first_k_dense_replace", 0) if is_asa else 0
    attention_bias = keys.boolean("attention_bias", False) if family == "llama" else False
    head_dim = _head_dim(keys, hidden, heads)
    return ModelConfig(
        family=family,
        architecture=architecture,
        vocab_size=keys.integer("vocab_size"),
        hidden_size=hidden,
        num_layers=keys.integer("num_hidden_layers"),
        num_heads=heads,
        # NOTES: Qwen2's default in transformers is 32 whatever the heads are, so it has to be written there.
        num_kv_heads=keys.integer("num_key_value_heads", None if family == "qwen2" else heads),
        head_dim=head_dim,
        intermediate_size=keys.integer("intermediate_size", 0 if is_asa and first_dense == 0 else None),
        rms_norm_eps=keys.number("rms_norm_eps"),
        tie_word_embeddings=keys.boolean("tie_word_embeddings", False),
        qkv_bias=family == "qwen2" or attention_bias,
        o_bias=attention_bias,
        mlp_bias=keys.boolean("mlp_bias", False) if family == "llama" else False,
        max_position_embeddings=keys.integer("max_position_embeddings"),
        eos_token_ids=_eos_token_ids(keys),
        rope=_rope_config(keys, head_dim, family),
        hla=_hla_config(keys) if is_asa else HlaConfig(),
        moe=_moe_config(keys) if is_asa else None,
        first_dense_layers=first_dense,
    )


def _head_dim(keys: _Keys, hidden: int, heads: int) -> int:
    if keys.has("head_dim"):
        head_dim = keys.integer("head_dim")
        require_size("head_dim", head_dim, MAX_WIDTH)
        return head_dim
    if heads < 1 or hidden % heads:
        keys.refuse(
            "head_dim is not given and does not follow from the heads",
            found=f"hidden_size {hidden}, num_attention_heads {heads}",
            expected="hidden_size divisible by num_attention_heads",
        )
    return hidden // heads


def _eos_token_ids(keys: _Keys) -> tuple[int, ...]:
    value = keys.raw.get("eos_token_id")
    tokens = [] if value is None else value if isinstance(value, list) else [value]
    if any(isinstance(token, bool) or not isinstance(token, int) for token in tokens):
        keys.refuse("eos_token_id is not usable", found=repr(value), expected="an integer or a list of them")
    return tuple(dict.fromkeys(tokens))


def _rope_dict(keys: _Keys) -> dict[str, Any]:
    """Reads either spelling: `rope_parameters`, or the older `rope_scaling` beside `rope_theta`."""
    found = {key: keys.raw[key] for key in ("rope_scaling", "rope_parameters") if keys.raw.get(key)}
    for key, value in found.items():
        if not isinstance(value, Mapping):
            keys.refuse(f"{key} is not an object", found=repr(value), expected="an object or null")
        if any(isinstance(entry, Mapping) for entry in value.values()):
            keys.refuse(f"{key} differs between layers", found=sorted(map(str, value)), expected="one RoPE")
    if len(found) == 2 and found["rope_scaling"] != found["rope_parameters"]:
        keys.refuse("rope_scaling contradicts rope_parameters", found=found, expected="one of them")
    return dict(next(iter(found.values()), {}))


def _rope_config(keys: _Keys, head_dim: int, family: Family) -> RopeConfig:
    rope = _rope_dict(keys)
    kinds = {rope.pop(key) for key in ("rope_type", "type") if isinstance(rope.get(key), str)}
    if len(kinds) > 1 or "rope_type" in rope or "type" in rope:
        keys.refuse("RoPE's type is not clear", found=_rope_dict(keys), expected="one string 'rope_type'")
    kind = cast(RopeKind, next(iter(kinds), "default"))
    theta = _agreed(keys, "rope_theta", rope.pop("rope_theta", None), 10000.0)
    factor = _agreed(keys, "partial_rotary_factor", rope.pop("partial_rotary_factor", None), 1.0)
    require_number("rope_theta", theta, minimum=0, exclusive=True)
    require_number("partial_rotary_factor", factor, minimum=0, exclusive=True)
    if factor > 1 or (family != "r1_asa" and factor != 1):
        limit = "at most 1" if family == "r1_asa" else "1 in this architecture"
        keys.refuse("partial_rotary_factor is out of range", found=factor, expected=limit)
    _add_lengths(keys, kind, rope)
    return RopeConfig(
        kind=kind,
        theta=float(theta),
        rotary_dim=int(head_dim * factor),
        parameters=rope,
        **_temperature(keys, rope) if family == "r1_asa" else {},
    )


def _add_lengths(keys: _Keys, kind: str, rope: dict[str, Any]) -> None:
    """Adds to the RoPE object the context lengths that its kind reads from the top level."""
    length = keys.integer("max_position_embeddings")
    original = "original_max_position_embeddings"
    if original in ROPE_REQUIRED.get(kind, ()):
        rope[original] = _agreed(keys, original, rope.get(original), length)
    if "max_position_embeddings" in ROPE_OPTIONAL.get(kind, ()):
        inside = rope.get("max_position_embeddings")
        rope["max_position_embeddings"] = _agreed(keys, "max_position_embeddings", inside, length)


def _agreed(keys: _Keys, key: str, inside: Any, default: Any) -> Any:
    """The value inside the RoPE object or at the top level; refuses two different ones."""
    outside = keys.raw.get(key)
    if inside is not None and outside is not None and inside != outside:
        keys.refuse(f"'{key}' is given twice", found=f"{inside!r} and {outside!r}", expected="one value")
    return next((value for value in (inside, outside) if value is not None), default)


def _temperature(keys: _Keys, rope: Mapping[str, Any]) -> dict[str, Any]:
    alpha = keys.number("rope_temperature_alpha", 0.1)
    if alpha == 0:
        return {"temperature_alpha": 0.0, "original_max_position": 0}
    # NOTES: without a shorter original length, the whole context was trained.
    key, trained = "original_max_position_embeddings", keys.integer("max_position_embeddings")
    return {
        "temperature_alpha": alpha,
        "original_max_position": _agreed(keys, key, rope.get(key), trained),
    }


def _hla_config(keys: _Keys) -> HlaConfig:
    return HlaConfig(
        block_size=keys.integer("hla_block_size", 32),
        inter_block=cast(InterBlock, keys.text("hla_inter_block", "first_to_first")),
        lam_skip=keys.number("hla_lam_skip", 0.0),
        gate=keys.boolean("hla_gate", True),
    )


def _moe_config(keys: _Keys) -> MoeConfig:
    scoring = cast(Scoring, keys.text("scoring", "softmax"))
    n_group = keys.integer("n_group", 1)
    num_shared = keys.integer("num_shared_experts", 0)
    require_size("num_shared_experts", num_shared, MAX_EXPERTS, minimum=0)
    shared_width = keys.integer("shared_intermediate_size") if num_shared else 0
    if num_shared:
        require_size("shared_intermediate_size", shared_width, MAX_WIDTH)
    return MoeConfig(
        num_experts=keys.integer("num_experts"),
        expert_width=keys.integer("moe_intermediate_size"),
        shared_width=shared_width,
        scoring=scoring,
        topk_method="noaux_tc" if n_group > 1 or scoring == "sigmoid" else "greedy",
        top_k=keys.integer("top_k", 2),
        top_k_min=keys.integer("top_k_min", 1),
        adaptive_threshold=keys.number("adaptive_threshold", 1.0),
        norm_topk_prob=keys.boolean("norm_topk_prob", True),
        routed_scaling_factor=keys.number("routed_scaling_factor", 1.0),
        n_group=n_group,
        topk_group=keys.integer("topk_group", 1),
    )
