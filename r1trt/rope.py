"""RoPE frequencies of a checkpoint's configuration, as `transformers` computes them.

All six kinds give one FP32 vector of inverse frequencies and one attention factor, which multiplies `cos` and
`sin`. Where `transformers` lets the frequencies follow the current length (`dynamic`, `longrope`), they are
frozen at the longest sequence of the export: rotated keys stay in the cache, so a frequency must not change
under them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from r1trt.errors import ConfigError

if TYPE_CHECKING:
    from r1trt.config import RopeConfig

Frequencies = tuple[NDArray[np.float32], float]

LENGTH_DEPENDENT_KINDS = frozenset({"dynamic", "longrope"})


@dataclass(frozen=True, kw_only=True)
class _Request:
    """One call's facts: the kind, its base, rotary size and parameters, the longest sequence in tokens."""

    kind: str
    theta: float
    dim: int
    parameters: Mapping[str, Any]
    max_seq_len: int


def rope_frequencies(
    config: RopeConfig, max_seq_len: int, *, max_position_embeddings: int | None = None
) -> Frequencies:
    """Computes the inverse frequencies that a rotation uses.

    Args:
        config: The kind, its base and its parameters.
        max_seq_len: Longest sequence, in tokens, that `dynamic` and `longrope` are frozen at.
        max_position_embeddings: The model's own context length in tokens; needed by `dynamic`, and by `yarn`
            and `longrope` without a `factor`.

    Returns:
        `inv_freq` `[rotary_dim / 2]` FP32 in radians per position, and the factor of `cos` and `sin`.

    Raises:
        ConfigError: The kind is unknown, or one of its parameters is missing or has the wrong length.
    """
    kind = _KINDS.get(config.kind)
    if kind is None:
        raise ConfigError("Unknown kind of RoPE.", found=config.kind, expected=", ".join(sorted(_KINDS)))
    parameters = {"max_position_embeddings": max_position_embeddings, **config.parameters}
    request = _Request(
        kind=config.kind,
        theta=config.theta,
        dim=config.rotary_dim,
        parameters=parameters,
        max_seq_len=max_seq_len,
    )
    try:
        with np.errstate(all="ignore"):
            inv_freq, attention_factor = kind(request)
    except ArithmeticError as error:
        raise ConfigError(f"RoPE of kind {config.kind!r} cannot be computed.", found=error) from error
    if not (np.isfinite(inv_freq).all() and np.isfinite(np.float32(attention_factor))):
        raise ConfigError(
            f"RoPE of kind {config.kind!r} gives frequencies that are not finite.",
            found=f"theta {config.theta}, parameters {dict(config.parameters)}",
            expected="finite FP32 frequencies",
            fix="correct rope_theta and the RoPE parameters in config.json",
        )
    return inv_freq.astype(np.float32, copy=False), float(attention_factor)


def _parameter(request: _Request, name: str) -> Any:
    return _required(request.parameters, request.kind, name)


def _required(parameters: Mapping[str, Any], kind: str, name: str) -> Any:
    value = parameters.get(name)
    if value is None:
        given = sorted(key for key, setting in parameters.items() if setting is not None)
        raise ConfigError(
            f"RoPE of kind {kind!r} needs the parameter {name!r}.",
            found=", ".join(given) or "none",
            fix=f"add {name!r} to rope_parameters (rope_scaling in older checkpoints) in config.json",
        )
    return value


def _exponents(dim: int) -> NDArray[np.float32]:
    return np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)


def _wavelengths(theta: float, dim: int) -> NDArray[np.float32]:
    """Wavelengths of the plain frequencies, over 2 pi: theta ** (2 i / dim)."""
    # NOTES: FP32, in the order of `transformers`: at position 100,000 one unit of FP32 is already 0.006 rad.
    wavelengths: NDArray[np.float32] = np.power(np.float32(theta), _exponents(dim))
    return wavelengths


def _default(request: _Request) -> Frequencies:
    return np.float32(1) / _wavelengths(request.theta, request.dim), 1.0


def _linear(request: _Request) -> Frequencies:
    inv_freq, _ = _default(request)
    return inv_freq / np.float32(_parameter(request, "factor")), 1.0


def _dynamic(request: _Request) -> Frequencies:
    """NTK-aware scaling: the base grows with the length once it is past the trained one."""
    factor, dim = float(_parameter(request, "factor")), request.dim
    trained = int(_parameter(request, "max_position_embeddings"))
    length = max(request.max_seq_len, trained)
    theta = request.theta * ((factor * length / trained) - (factor - 1)) ** (dim / (dim - 2))
    return np.float32(1) / _wavelengths(theta, dim), 1.0


def _scaling_factor(parameters: Mapping[str, Any], kind: str) -> float:
    """The config's `factor`, or how much longer than trained the model says it can go."""
    factor = parameters.get("factor")
    if factor is not None:
        return float(factor)
    trained = float(_required(parameters, kind, "original_max_position_embeddings"))
    return float(_required(parameters, kind, "max_position_embeddings")) / trained


def _yarn_magnitude(factor: float, scale: float = 1.0) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _yarn_attention_factor(parameters: Mapping[str, Any], factor: float) -> float:
    if parameters.get("attention_factor") is not None:
        return float(parameters["attention_factor"])
    scale, scale_all = parameters.get("mscale"), parameters.get("mscale_all_dim")
    if scale and scale_all:
        return _yarn_magnitude(factor, scale) / _yarn_magnitude(factor, scale_all)
    return _yarn_magnitude(factor)


def yarn_score_factor(config: RopeConfig) -> float:
    """YaRN's factor of attention scores, beside that of the rotation: `mscale_all_dim`'s magnitude, squared.

    1 for other kinds, and without `mscale_all_dim`.

    Raises:
        ConfigError: `factor` is absent, and so are the lengths that it follows from.
    """
    scale_all = config.parameters.get("mscale_all_dim")
    if config.kind != "yarn" or not scale_all:
        return 1.0
    magnitude = _yarn_magnitude(_scaling_factor(config.parameters, config.kind), float(scale_all))
    return magnitude * magnitude


def _yarn_ramp(request: _Request) -> NDArray[np.float32]:
    """0 where a frequency is kept, 1 where it is divided by the factor, between them a line. `[dim / 2]`."""
    dim, trained = request.dim, float(_parameter(request, "original_max_position_embeddings"))

    def dimension_of(rotations: float) -> float:
        return dim * math.log(trained / (rotations * 2 * math.pi)) / (2 * math.log(request.theta))

    low = dimension_of(request.parameters.get("beta_fast") or 32)
    high = dimension_of(request.parameters.get("beta_slow") or 1)
    if request.parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    index = np.arange(dim // 2, dtype=np.float32)
    ramp: NDArray[np.float32] = np.clip((index - np.float32(low)) / np.float32(high - low), 0, 1)
    return ramp


def _yarn(request: _Request) -> Frequencies:
    factor = _scaling_factor(request.parameters, request.kind)
    wavelengths = _wavelengths(request.theta, request.dim)
    kept, divided = np.float32(1) / wavelengths, np.float32(1) / (np.float32(factor) * wavelengths)
    share_kept = np.float32(1) - _yarn_ramp(request)
    inv_freq = divided * (np.float32(1) - share_kept) + kept * share_kept
    return inv_freq, _yarn_attention_factor(request.parameters, factor)


def _llama3(request: _Request) -> Frequencies:
    inv_freq, _ = _default(request)
    factor, low, high, trained = (
        np.float32(_parameter(request, name))
        for name in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    wavelength = np.float32(2 * math.pi) / inv_freq
    long, short = wavelength > trained / low, wavelength < trained / high
    smooth = (trained / wavelength - low) / (high - low)
    between = (np.float32(1) - smooth) * inv_freq / factor + smooth * inv_freq
    scaled = np.where(long, inv_freq / factor, np.where(short, inv_freq, between))
    return scaled.astype(np.float32), 1.0


def _longrope(request: _Request) -> Frequencies:
    trained = int(_parameter(request, "original_max_position_embeddings"))
    factor = _scaling_factor(request.parameters, request.kind)
    attention_factor = request.parameters.get("attention_factor")
    if attention_factor is None:
        attention_factor = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(trained))
    name = "long_factor" if request.max_seq_len > trained else "short_factor"
    factors = np.asarray(_parameter(request, name), dtype=np.float32)
    if factors.shape != (request.dim // 2,):
        raise ConfigError(
            f"RoPE parameter {name!r} has the wrong length.",
            found=factors.shape,
            expected=(request.dim // 2,),
        )
    return np.float32(1) / (factors * _wavelengths(request.theta, request.dim)), float(attention_factor)


_KINDS: Mapping[str, Callable[[_Request], Frequencies]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "llama3": _llama3,
    "longrope": _longrope,
}
