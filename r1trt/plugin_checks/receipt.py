"""The receipt: everything that a run found, as JSON, written after each step so that a later run goes on."""

from __future__ import annotations

import datetime
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1trt.artifacts.disk import replace_file
from r1trt.artifacts.errors import ArtifactError
from r1trt.artifacts.fields import InvalidFieldsError
from r1trt.artifacts.manifest import json_from_file, require_plain
from r1trt.errors import ConfigError
from r1trt.plugin_checks.receipt_schema import KIND, SCHEMA, require_receipt
from r1trt.plugin_checks.stages import STAGES
from r1trt.text import listing

# What a receipt must agree in with a run that goes on with it.
IDENTITY = ("schema", "kind", "mode", "sources", "plugin_library", "gpu", "driver")


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
        replace_file(self.path, json.dumps(self.content, indent=1, allow_nan=False) + "\n")

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
        ConfigError: It is not a receipt, is of another schema, or is damaged.
    """
    content = _content_of(path)
    try:
        require_receipt(content)
    except InvalidFieldsError as error:
        raise ConfigError(
            "The receipt is damaged, or of another version.",
            where=path,
            found=listing(error.problems),
            expected=f"{KIND}, schema {SCHEMA}",
            fix="name another file, or run the checks again",
        ) from error
    return Receipt(path, content)


def open_receipt(path: Path, header: dict[str, Any], *, seed: int | None) -> Receipt:
    """Continues a receipt of the same sources, plugin library, machine and seed, or starts one.

    Args:
        path: The file; an older one of other sources, another library or another machine is replaced.
        header: What is known of sources and machine.
        seed: What it must have; None takes the older receipt's, or draws one.

    Raises:
        ConfigError: The file is something else, which is not to be replaced, or a damaged receipt.
    """
    header = {"schema": SCHEMA, "kind": KIND, **header}
    # An empty file is a name that somebody reserved.
    if path.exists() and path.stat().st_size and _content_of(path).get("schema") == SCHEMA:
        old = read_receipt(path)
        same = all(old.content.get(key) == header.get(key) for key in IDENTITY)
        if same and seed in (None, old.seed):
            return old
    drawn = int.from_bytes(os.urandom(4), "little") if seed is None else seed
    return Receipt(path, {**header, "started": now(), "seed": drawn, "stages": {}})


def _content_of(path: Path) -> dict[str, Any]:
    """A receipt of any version.

    Raises:
        ConfigError: It is not one.
    """
    try:
        content = json_from_file(path)
        if not isinstance(content, dict) or content.get("kind") != KIND:
            found: object = ascii(content.get("kind") if isinstance(content, dict) else content)[:80]
        else:
            require_plain(content, path)
            return content
    except ArtifactError as error:
        found = error.details.get("found")
    raise ConfigError(
        "This is not a receipt of the plugins' checks.",
        where=path,
        found=found,
        expected=f"{KIND}, schema {SCHEMA}",
        fix="name another file",
    )
