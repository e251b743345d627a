"""A build's layers.json: what the plan asks of each layer, and what the parsed network holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1trt.artifacts.documents import document_from_file
from r1trt.artifacts.fields import Size


@dataclass(frozen=True, kw_only=True)
class LayerEntry:
    """One layer of the plan.

    Attributes:
        name: The plan's key.
        op: Operator.
        asked: Types that the plan asks for, by part.
        found: Types in the network, by the same parts.
        verdict: How they compare.
        executed: Types of its products in the engines; empty where they do not tell.
    """

    name: str
    op: str
    asked: Mapping[str, str]
    found: Mapping[str, str]
    verdict: str
    executed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """The whole file.

    Attributes:
        layers: One entry for each layer of the plan.
        network_layers: Layers of the network.
        executed: Products as the engine spells them; evidence, in the library's own words.
        summary: Number of layers by verdict.
    """

    layers: tuple[LayerEntry, ...]
    network_layers: Size
    executed: Mapping[str, Any]
    summary: Mapping[str, Size]

    @classmethod
    def read(cls, path: Path) -> LayerReport:
        """Reads the file.

        Raises:
            ArtifactError: It is missing, damaged, or of another version.
        """
        return document_from_file(cls, path, fix="build again")
