"""An export, and the engines that are built of it: whole, and in parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r1trt.build.config import BuildConfig
from r1trt.build.pipeline import build_engine
from r1trt.export.export import ExportConfig, export_checkpoint

ROWS, CAPACITY, CALL = 2, 64, 16


@dataclass(frozen=True)
class SplitModel:
    """An export with so many layers; an engine that is asked for again is not built again."""

    path: Path
    layers: int
    built: dict[str, Path] = field(default_factory=dict)

    def config(self, parts: int | None = None, **options: Any) -> BuildConfig:
        name = "-".join(map(str, ["engine", parts, *options.values()]))
        settings = {
            "arch": "cpu",
            "precision": "fp32",
            "max_batch_size": ROWS,
            "max_input_len": CALL,
            "output": self.path.parent / name,
        }
        return BuildConfig(**{**settings, **options}, model=self.path, parts=parts)

    def engine(self, parts: int | None = None, **options: Any) -> Path:
        config = self.config(parts, **options)
        key = str(config.output)
        if key not in self.built:
            self.built[key] = build_engine(config)
        return self.built[key]


def split_model(
    checkpoint: Path, directory: Path, layers: int, *, capacity: int = CAPACITY, last: bool = False
) -> SplitModel:
    config = ExportConfig(
        checkpoint=checkpoint, output=directory / "export", max_seq_len=capacity, last_token_logits=last
    )
    return SplitModel(export_checkpoint(config), layers)
