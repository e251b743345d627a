"""A build's profiles.json: the input shapes that its engine accepts, a list of profiles."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from r1trt.artifacts.errors import ArtifactError
from r1trt.artifacts.fields import Count, InvalidFieldsError, from_json
from r1trt.artifacts.manifest import json_from_file, require_plain
from r1trt.errors import ConfigError
from r1trt.text import listing


@dataclass(frozen=True, kw_only=True)
class InputRange:
    """Shapes of one input: smallest, tuned for, largest."""

    min: tuple[Count, ...]
    opt: tuple[Count, ...]
    max: tuple[Count, ...]

    def __post_init__(self) -> None:
        # The builder takes an inverted range without a word and then says that there is no profile.
        if not len(self.min) == len(self.opt) == len(self.max) or not all(
            1 <= low <= tuned <= high for low, tuned, high in zip(self.min, self.opt, self.max, strict=True)
        ):
            raise ConfigError(
                "An input range is not ordered.",
                found=f"min {self.min}, opt {self.opt}, max {self.max}",
                expected="1 <= min <= opt <= max in every dimension",
            )


@dataclass(frozen=True, kw_only=True)
class OptimizationProfile:
    """One way of calling an engine.

    Attributes:
        name: "prefill" or "decode".
        inputs: Range of every graph input.
    """

    name: str
    inputs: Mapping[str, InputRange]


@dataclass(frozen=True, kw_only=True)
class _Profiles:
    """The whole file, as if it were an object of one key."""

    profiles: tuple[OptimizationProfile, ...]

    def __post_init__(self) -> None:
        if not self.profiles:
            raise ValueError("profiles: [], expected one or more")


def save_profiles(profiles: Sequence[OptimizationProfile], path: Path) -> None:
    """Write profiles as JSON."""
    document = [asdict(profile) for profile in profiles]
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def load_profiles(path: Path) -> list[OptimizationProfile]:
    """Read what `save_profiles` wrote.

    Raises:
        ArtifactError: The file is missing or malformed; lists the keys.
    """
    document = {"profiles": json_from_file(path)}
    require_plain(document, path)
    try:
        return list(from_json(_Profiles, document).profiles)
    except (InvalidFieldsError, ConfigError) as error:
        problems = error.problems if isinstance(error, InvalidFieldsError) else [error.details["found"]]
        raise ArtifactError(
            "The profiles cannot be read.",
            where=path,
            found=listing(problems),
            fix="build again",
        ) from error
