"""The receipt: everything that a run found, as JSON, written after each step so that a later run goes on."""

from __future__ import annotations

import datetime
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1trt.errors import ConfigError

SCHEMA = 1
KIND = "gpu-check"
BUILD, TIME = "build", "time"
CHECKS = ("check", "sanitize", "harness", "graph")
STAGES = (BUILD, *CHECKS, TIME)
# What a receipt must agree in with a run that goes on with it.
IDENTITY = ("schema", "kind", "mode", "sources", "gpu", "driver")


def now() -> str:
    """The time in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@dataclass
class Receipt:
    """A receipt and its file."""

    path: Path
    content: dict[str, Any]

    @property
    def seed(self) -> int:
        """What the random numbers follow from."""
        return int(self.content["seed"])

    def stage(self, name: str) -> dict[str, Any] | None:
        """What a stage left, finished or not."""
        found: dict[str, Any] | None = self.content["stages"].get(name)
        return found

    def is_finished(self, name: str) -> bool:
        """Whether a stage came to its end."""
        stage = self.stage(name)
        return stage is not None and bool(stage["finished"])

    def record(self, name: str, result: dict[str, Any], *, finished: bool) -> None:
        """Keeps a stage's result, and writes the file."""
        self.content["stages"][name] = {**result, "finished": finished, "written": now()}
        self.save()

    def save(self) -> None:
        """Writes the file in one step."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        partial.write_text(json.dumps(self.content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        partial.replace(self.path)

    @property
    def failures(self) -> list[str]:
        """Checks that failed, as `stage: which: why`."""
        found = []
        for name, stage in self.content["stages"].items():
            found += [f"{name}: {item['name']}: {item['why']}" for item in stage.get("failures", ())]
        return found

    @property
    def unfinished(self) -> list[str]:
        """Stages that did not come to their end."""
        return [name for name in STAGES if not self.is_finished(name)]


def read_receipt(path: Path) -> Receipt:
    """Reads a receipt.

    Raises:
        ConfigError: It is not a receipt, or is of another schema.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError("The receipt cannot be read.", where=path, found=error) from error
    if not isinstance(content, dict) or (content.get("schema"), content.get("kind")) != (SCHEMA, KIND):
        raise ConfigError(
            "This is not a receipt of the plugins' checks.", where=path, expected=f"{KIND}, schema {SCHEMA}"
        )
    return Receipt(path, content)


def open_receipt(path: Path, header: dict[str, Any], *, seed: int | None) -> Receipt:
    """Continues a receipt of the same sources, machine and seed, or starts one.

    Args:
        path: The file; an older one of other sources or another machine is replaced.
        header: What is known of sources and machine.
        seed: What it must have; None takes the older receipt's, or draws one.
    """
    header = {"schema": SCHEMA, "kind": KIND, **header}
    if path.exists():
        try:
            old = read_receipt(path)
        except ConfigError:
            old = None
        same = old is not None and all(old.content.get(key) == header.get(key) for key in IDENTITY)
        if old is not None and same and seed in (None, old.seed):
            return old
    drawn = int.from_bytes(os.urandom(4), "little") if seed is None else seed
    return Receipt(path, {**header, "started": now(), "seed": drawn, "stages": {}})
