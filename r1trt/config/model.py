"""The configurations: frozen, validated on construction, independent of any file format."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from r1trt.errors import ConfigError

Family = Literal["llama", "qwen2", "r1_asa"]
RopeKind = Literal["default", "linear", "dynamic", "yarn", "llama3", "longrope"]
InterBlock = Literal["first_to_first", "all_to_first"]
Scoring = Literal["softmax", "sigmoid"]
TopkMethod = Literal["greedy", "group_limited_greedy", "noaux_tc"]

# Limits far above any model of these families: a size beyond them is a damaged or hostile config, and would
# otherwise end in a table of billions of tensor names.
MAX_LAYERS = 1024
MAX_EXPERTS = 4096
MAX_EXPERTS_OF_ALL_LAYERS = 1 << 18
MAX_WIDTH = 1 << 20
MAX_VOCABULARY = 1 << 24
MAX_POSITIONS = 1 << 30

ROPE_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor", "original_max_position_embeddings"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "longrope": ("short_factor", "long_factor", "original_max_position_embeddings"),
}
ROPE_OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "default": ("original_max_position_embeddings",),
    "linear": ("original_max_position_embeddings",),
    "dynamic": ("max_position_embeddings", "original_max_position_embeddings"),
    "yarn": (
        *("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
        "max_position_embeddings",
    ),
    "llama3": (),
    "longrope": ("attention_factor", "factor", "max_position_embeddings"),
}


def _require(condition: bool, message: str, *, found: object, expected: object) -> None:
    if not condition:
        raise ConfigError(message, found=found, expected=expected)


def require_size(name: str, value: object, limit: int, *, minimum: int = 1) -> None:
    """Raises ConfigError unless `value` is an integer (not a bool) from `minimum` to `limit`."""
    is_int = isinstance(value, int) and not isinstance(value, bool)
    _require(
        is_int and minimum <= cast(int, value) <= limit,
        f"{name} is not a usable size",
        found=repr(value),
        expected=f"an integer from {minimum} to {limit}",
    )


def require_number(name: str, value: object, *, minimum: float, exclusive: bool = False) -> None:
    """Raises ConfigError unless `value` is a finite number >= `minimum` (> with `exclusive`)."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # NOTES: JSON knows integers that no double holds.
    is_number = is_number and abs(cast(float, value)) <= sys.float_info.max
    number = float(cast(float, value)) if is_number else math.nan
    _require(
        math.isfinite(number) and (number > minimum if exclusive else number >= minimum),
        f"{name} is not a usable number",
        found=repr(value),
        expected=f"a finite number {'>' if exclusive else '>='} {minimum:g}",
    )


def _require_choice(name: str, value: object, choices: Sequence[str]) -> None:
    _require(
        isinstance(value, str) and value in choices,
        f"{name} is not one that is implemented",
        found=repr(value),
        expected=" | ".join(choices),
    )


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding of a model.

    Attributes:
        kind: How the frequencies are scaled; the names are those of `transformers`.
        theta: Base wavelength.
        rotary_dim: How many of a head's leading numbers are rotated; even.
        parameters: The rest of Hugging Face's dict (`factor`, `low_freq_factor`, ...), checked for `kind`,
            with the lengths that `kind` reads: `original_max_position_embeddings`, `max_position_embeddings`.
        interleaved: Pairs are neighbours (True) or the two halves (False).
        temperature_alpha: `alpha` of the position temperature; 0 switches it off.
        original_max_position: Position from which the temperature acts; 0 where `temperature_alpha` is 0.
    """

    kind: RopeKind
    theta: float
    rotary_dim: int
    parameters: Mapping[str, Any] = field(default_factory=dict)
    interleaved: bool = False
    temperature_alpha: float = 0.0
    original_max_position: int = 0

    def __post_init__(self) -> None:
        """Raises ConfigError for an unknown kind, and missing, unknown or unusable parameters."""
        _require_choice("RoPE type", self.kind, tuple(ROPE_REQUIRED))
        require_number("rope_theta", self.theta, minimum=0, exclusive=True)
        require_size("rotary dimension", self.rotary_dim, MAX_WIDTH, minimum=2)
        _require(
            self.rotary_dim % 2 == 0, "RoPE rotates pairs", found=self.rotary_dim, expected="an even number"
        )
        self._check_parameter_names()
        self._check_parameter_values()
        require_number("rope_temperature_alpha", self.temperature_alpha, minimum=0)
        least = 1 if self.temperature_alpha > 0 else 0
        require_size(
            "original_max_position_embeddings", self.original_max_position, MAX_POSITIONS, minimum=least
        )

    def _check_parameter_names(self) -> None:
        required, optional = ROPE_REQUIRED[self.kind], ROPE_OPTIONAL[self.kind]
        missing = sorted(set(required) - set(self.parameters))
        unknown = sorted(map(str, set(self.parameters) - set(required) - set(optional)))
        expected = f"required {list(required)}, optional {list(optional)}"
        _require(
            not missing, f"RoPE type '{self.kind}' lacks parameters", found=f"no {missing}", expected=expected
        )
        _require(
            not unknown, f"RoPE type '{self.kind}' has unknown parameters", found=unknown, expected=expected
        )

    def _check_parameter_values(self) -> None:
        may_be_null = {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "factor"}
        for name, value in self.parameters.items():
            if value is None and name in may_be_null and self.kind in ("yarn", "longrope"):
                continue
            if name.endswith("max_position_embeddings"):
                require_size(f"RoPE's {name}", value, MAX_POSITIONS)
            elif name in ("short_factor", "long_factor"):
                self._check_factors(name, value)
            elif name == "truncate":
                _require(isinstance(value, bool), "RoPE's truncate", found=repr(value), expected="a boolean")
            elif name == "factor":
                require_number("RoPE's factor", value, minimum=1)
            else:
                require_number(f"RoPE's {name}", value, minimum=0, exclusive=not name.startswith("mscale"))
        if self.kind == "llama3":
            low, high = (float(self.parameters[f"{which}_freq_factor"]) for which in ("low", "high"))
            _require(high > low, "llama3 RoPE has no bands", found=f"{low=}, {high=}", expected="low < high")

    def _check_factors(self, name: str, value: object) -> None:
        expected = f"a list of {self.rotary_dim // 2} numbers"
        if not isinstance(value, list) or len(value) != self.rotary_dim // 2:
            found = f"{len(value)} numbers" if isinstance(value, list) else repr(value)
            raise ConfigError(f"RoPE's {name} does not fit rotary_dim", found=found, expected=expected)
        for number in value:
            require_number(f"RoPE's {name}", number, minimum=0, exclusive=True)


@dataclass(frozen=True, kw_only=True)
class HlaConfig:
    """Hybrid-length attention; without a gate it is ordinary causal attention (`lam = 1`).

    Attributes:
        block_size: Tokens of a block.
        inter_block: Which queries see the first tokens of earlier blocks.
        lam_skip: Below this (above one minus this) `lam` counts as 0 (1); 0 switches it off.
        gate: The checkpoint holds `self_attn.lam_gate`.
    """

    block_size: int = 32
    inter_block: InterBlock = "first_to_first"
    lam_skip: float = 0.0
    gate: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError for a value out of range."""
        require_size("hla_block_size", self.block_size, MAX_WIDTH)
        _require_choice("hla_inter_block", self.inter_block, ("first_to_first", "all_to_first"))
        require_number("hla_lam_skip", self.lam_skip, minimum=0)
        _require(self.lam_skip < 0.5, "hla_lam_skip is too large", found=self.lam_skip, expected="< 0.5")


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
        _require_choice("scoring", self.scoring, ("softmax", "sigmoid"))
        _require_choice("topk_method", self.topk_method, ("greedy", "group_limited_greedy", "noaux_tc"))
        require_size("top_k", self.top_k, self.num_experts)
        require_size("top_k_min", self.top_k_min, self.top_k)
        require_number("adaptive_threshold", self.adaptive_threshold, minimum=0, exclusive=True)
        require_number("routed_scaling_factor", self.routed_scaling_factor, minimum=0, exclusive=True)
        require_size("n_group", self.n_group, self.num_experts)
        require_size("topk_group", self.topk_group, self.n_group)
        self._check_groups()

    def _check_groups(self) -> None:
        _require(
            self.num_experts % self.n_group == 0,
            "experts do not form equal groups",
            found=f"num_experts {self.num_experts}, n_group {self.n_group}",
            expected="num_experts divisible by n_group",
        )
        if self.n_group == 1:
            return
        group_size = self.num_experts // self.n_group
        _require(
            self.topk_method != "greedy",
            "greedy routing knows no groups",
            found=f"n_group {self.n_group}",
            expected="noaux_tc or group_limited_greedy",
        )
        _require(
            self.topk_method != "noaux_tc" or group_size >= 2,
            "a group is scored by its two highest experts",
            found=f"{group_size} expert a group",
            expected="at least 2",
        )
        _require(
            self.topk_group * group_size >= self.top_k,
            "the kept groups hold fewer experts than top_k",
            found=f"{self.topk_group} groups of {group_size}, top_k {self.top_k}",
            expected="topk_group * num_experts / n_group >= top_k",
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder-only model, independent of how its config.json spells it.

    Attributes:
        family: Which row of the families table names the tensors.
        architecture: Hugging Face's class name.
        vocab_size: Rows of the embedding.
        hidden_size: Width of the residual stream.
        num_layers: Decoder layers.
        num_heads: Query heads.
        num_kv_heads: Key/value heads; divides `num_heads`.
        head_dim: Numbers of a head.
        intermediate_size: Width of a dense MLP; 0 when every layer is a mixture of experts.
        rms_norm_eps: Epsilon of every RMSNorm.
        tie_word_embeddings: The head is the embedding.
        qkv_bias: q, k and v projections have biases.
        o_bias: The output projection has a bias.
        mlp_bias: The dense MLP's projections have biases.
        max_position_embeddings: Trained (or scaled) context length.
        eos_token_ids: Token ids that end a generation; may be empty.
        rope: Rotary position embedding.
        hla: Hybrid-length attention.
        moe: Mixture of experts; None when every layer is dense.
        first_dense_layers: Leading layers that are dense although `moe` is given.
    """

    family: Family
    architecture: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    max_position_embeddings: int
    eos_token_ids: tuple[int, ...]
    rope: RopeConfig
    hla: HlaConfig = field(default_factory=HlaConfig)
    moe: MoeConfig | None = None
    first_dense_layers: int = 0

    def __post_init__(self) -> None:
        """Raises ConfigError for a value out of range or a contradiction between values."""
        require_size("vocab_size", self.vocab_size, MAX_VOCABULARY)
        require_size("hidden_size", self.hidden_size, MAX_WIDTH)
        require_size("num_hidden_layers", self.num_layers, MAX_LAYERS)
        require_size("num_attention_heads", self.num_heads, MAX_WIDTH)
        require_size("num_key_value_heads", self.num_kv_heads, MAX_WIDTH)
        require_size("head_dim", self.head_dim, MAX_WIDTH)
        require_size("max_position_embeddings", self.max_position_embeddings, MAX_POSITIONS)
        require_number("rms_norm_eps", self.rms_norm_eps, minimum=0, exclusive=True)
        require_size("first_k_dense_replace", self.first_dense_layers, self.num_layers, minimum=0)
        has_dense = any(not self.is_moe_layer(layer) for layer in (0, self.num_layers - 1))
        require_size("intermediate_size", self.intermediate_size, MAX_WIDTH, minimum=int(has_dense))
        if self.moe is not None:
            experts = self.moe.num_experts * (self.num_layers - self.first_dense_layers)
            require_size("number of experts in all layers", experts, MAX_EXPERTS_OF_ALL_LAYERS, minimum=0)
        self._check_heads()
        for token in self.eos_token_ids:
            require_size("eos_token_id", token, self.vocab_size - 1, minimum=0)

    def _check_heads(self) -> None:
        _require(
            self.num_heads % self.num_kv_heads == 0,
            "query heads do not share key/value heads evenly",
            found=f"num_attention_heads {self.num_heads}, num_key_value_heads {self.num_kv_heads}",
            expected="the first divisible by the second",
        )
        _require(
            self.num_heads * self.head_dim <= MAX_WIDTH,
            "the attention is absurdly wide",
            found=f"{self.num_heads} heads of {self.head_dim}",
            expected=f"at most {MAX_WIDTH} numbers",
        )
        _require(
            self.rope.rotary_dim <= self.head_dim,
            "more numbers are rotated than a head has",
            found=f"rotary dimension {self.rope.rotary_dim}",
            expected=f"at most head_dim = {self.head_dim}",
        )

    def is_moe_layer(self, layer: int) -> bool:
        """Says whether decoder layer `layer` (from 0) is a mixture of experts."""
        return self.moe is not None and layer >= self.first_dense_layers
