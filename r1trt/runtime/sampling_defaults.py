"""How a model's publisher wants its tokens chosen, where nobody says otherwise: `generation_config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r1trt.artifacts.directory import ModelDirectory
from r1trt.errors import CheckpointError, ConfigError
from r1trt.files import is_there
from r1trt.runtime.sampling import SamplingConfig
from r1trt.strict_json import json_object_from_file

# What else a generation config may ask for, and the values that ask for nothing.
_OTHER_SETTINGS: Mapping[str, tuple[Any, ...]] = {
    "repetition_penalty": (1,),
    "encoder_repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "min_p": (0,),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "num_beams": (1,),
    "penalty_alpha": (0,),
    "min_new_tokens": (0,),
    "min_length": (0,),
    "bad_words_ids": ([],),
    "suppress_tokens": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "sequence_bias": ({}, []),
    "begin_suppress_tokens": ([],),
    "stop_strings": ([],),
    "guidance_scale": (1,),
}
_OF_SAMPLING = frozenset({"min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"})
"""Without `do_sample` these ask for nothing."""
_DEFAULTS = SamplingConfig()
_SHOWN, _MOST = 40, 1e9


@dataclass(frozen=True, kw_only=True)
class SamplingDefaults:
    """What holds for values that are not given.

    Attributes:
        temperature: 0 takes the most likely token.
        top_k: Sample from this many of the most likely tokens; 0 from all.
        top_p: Sample from the most likely tokens that hold this much probability.
        unused: Settings of the file that change what is generated elsewhere, and do not here.
    """

    temperature: float = _DEFAULTS.temperature
    top_k: int = _DEFAULTS.top_k
    top_p: float = _DEFAULTS.top_p
    unused: Mapping[str, Any] = field(default_factory=dict)

    def config(
        self,
        *,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> SamplingConfig:
        """The given values, and the defaults for what is None.

        Raises:
            ConfigError: A value is out of range.
        """
        return SamplingConfig(
            temperature=self.temperature if temperature is None else temperature,
            top_k=self.top_k if top_k is None else top_k,
            top_p=self.top_p if top_p is None else top_p,
            seed=_DEFAULTS.seed if seed is None else seed,
        )

    @property
    def note(self) -> str | None:
        """What the file asks for and does not get; None where that is nothing."""
        if not self.unused:
            return None
        settings = ", ".join(f"{name} {str(value)[:_SHOWN]}" for name, value in sorted(self.unused.items()))
        return f"generation_config.json asks for {settings}, which is not done here."


def sampling_defaults_from_dir(directory: Path) -> SamplingDefaults:
    """Reads a model's sampling defaults.

    As in transformers, a file that does not say `do_sample` means the most likely token, whatever its
    temperature. A `top_k` that it does not have limits nothing (transformers would take 50).

    Args:
        directory: A checkpoint's, an export's or a build's; may have no `generation_config.json`.

    Raises:
        CheckpointError: A value of the file is out of range.
    """
    path = ModelDirectory(path=directory).generation_config
    content = json_object_from_file(path) if is_there(path) else {}
    samples = content.get("do_sample") is True
    unused = {
        name: content[name]
        for name, nothing in _OTHER_SETTINGS.items()
        if content.get(name) is not None and content[name] not in nothing
        if samples or name not in _OF_SAMPLING
    }
    if not samples:
        return SamplingDefaults(unused=unused)
    defaults = SamplingDefaults(
        temperature=_number(content, "temperature", 1.0, path),
        top_k=_whole(content, "top_k", _DEFAULTS.top_k, path),
        top_p=_number(content, "top_p", _DEFAULTS.top_p, path),
        unused=unused,
    )
    try:
        defaults.config()
    except ConfigError as error:
        raise CheckpointError(error.message, **{**error.details, "where": str(path)}) from error
    return defaults


def _whole(content: Mapping[str, Any], name: str, default: int, where: Path) -> int:
    value = _number(content, name, default, where)
    if value != int(value):
        raise CheckpointError(f"{name} is no whole number.", where=where, found=value, expected="0 or more")
    return int(value)


def _number(content: Mapping[str, Any], name: str, default: float, where: Path) -> float:
    value = content.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _MOST:
        raise CheckpointError(
            f"{name} is no number.", where=where, found=repr(value)[:_SHOWN], expected="a number",
            fix="take the file of the same revision again, or delete the line",
        )  # fmt: skip
    return value
