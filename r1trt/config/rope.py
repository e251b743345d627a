"""Rotary position embedding: six ways to scale the frequencies, and R1-ASA's temperature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from r1trt.config.checks import (
    MAX_POSITIONS,
    MAX_WIDTH,
    require,
    require_choice,
    require_number,
    require_size,
)
from r1trt.errors import ConfigError

RopeKind = Literal["default", "linear", "dynamic", "yarn", "llama3", "longrope"]

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


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding of a model.

    Attributes:
        kind: How the frequencies are scaled; the names are those of `transformers`.
        theta: Base wavelength.
        rotary_dim: How many of a head's leading elements are rotated; even.
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
        require_choice("RoPE type", self.kind, tuple(ROPE_REQUIRED))
        require_number("rope_theta", self.theta, minimum=0, exclusive=True)
        require_size("rotary dimension", self.rotary_dim, MAX_WIDTH, minimum=2)
        require(
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
        require(
            not missing, f"RoPE type '{self.kind}' lacks parameters", found=f"no {missing}", expected=expected
        )
        require(
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
                require(isinstance(value, bool), "RoPE's truncate", found=repr(value), expected="a boolean")
            elif name == "factor":
                require_number("RoPE's factor", value, minimum=1)
            else:
                require_number(f"RoPE's {name}", value, minimum=0, exclusive=not name.startswith("mscale"))
        if self.kind == "llama3":
            low, high = (float(self.parameters[f"{which}_freq_factor"]) for which in ("low", "high"))
            require(high > low, "llama3 RoPE has no bands", found=f"{low=}, {high=}", expected="low < high")

    def _check_factors(self, name: str, value: object) -> None:
        expected = f"a list of {self.rotary_dim // 2} numbers"
        if not isinstance(value, list) or len(value) != self.rotary_dim // 2:
            found = f"{len(value)} numbers" if isinstance(value, list) else repr(value)
            raise ConfigError(f"RoPE's {name} does not fit rotary_dim", found=found, expected=expected)
        for number in value:
            require_number(f"RoPE's {name}", number, minimum=0, exclusive=True)
