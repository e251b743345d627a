"""An unfinished training on the disk: whole at any moment, and resumed by whoever asks for the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as bytes_of_tensors
from torch import Tensor

from r1trt.artifacts.disk import replace_file
from r1trt.artifacts.errors import ArtifactError
from r1trt.artifacts.manifest import json_text
from r1trt.files import DOCUMENT_BYTES, bytes_of_file, is_there, open_file
from r1trt.lifetime.temporary import remove_if_left_behind
from r1trt.strict_json import json_object_from_bytes

_STATE, _TENSORS = "state.json", "step-*.safetensors"
_FIX = "remove the directory to start again, or choose another output with -o"


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """How far a training is.

    Attributes:
        losses: Of each step that is done.
        tensors: Masters, the optimizer's moments and ranges of activations, by name.
    """

    losses: list[float]
    tensors: Mapping[str, Tensor]

    @property
    def step(self) -> int:
        """Steps that are done."""
        return len(self.losses)


def save_state(directory: Path, run: Mapping[str, Any], state: SavedState) -> None:
    """Write a state in the place of the last one.

    However the process ends, `state.json` names tensors that are there, whole: they are written before it,
    and the last ones removed after it.

    Args:
        directory: Is made, if need be, in one that exists.
        run: What was asked for; plain values.
        state: What is kept.
    """
    content = bytes_of_tensors(dict(state.tensors))
    directory.mkdir(exist_ok=True)
    file = f"step-{state.step:08}.safetensors"
    replace_file(directory / file, content)
    document = {
        "run": dict(run),
        "losses": state.losses,
        "file": file,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    replace_file(directory / _STATE, json_text(document))
    for path in directory.glob(_TENSORS):
        if path.name != file:
            path.unlink(missing_ok=True)
    for path in directory.glob(".*.tmp-*"):
        remove_if_left_behind(path)


def load_state(directory: Path, run: Mapping[str, Any]) -> SavedState | None:
    """Read the state of a training that ended before it was done; None where there is none.

    Raises:
        ArtifactError: It is another training's, or damaged.
    """
    path = directory / _STATE
    if not is_there(path):
        return None
    content = bytes_of_file(path, limit=DOCUMENT_BYTES, error=ArtifactError, fix=_FIX)
    document = json_object_from_bytes(content, path, error=ArtifactError)
    try:
        known, losses = dict(document["run"]), [float(loss) for loss in document["losses"]]
        file, sha256 = str(document["file"]), str(document["sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    _require_same(path, dict(run), known)
    if Path(file).name != file:
        raise _damaged(path, f"names {file!r}")
    with open_file(directory / file, error=ArtifactError, fix=_FIX) as opened:
        content = opened.read()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise _damaged(directory / file, "another SHA-256 than state.json names")
    try:
        return SavedState(losses=losses, tensors=tensors_from_bytes(content))
    except SafetensorError as error:
        raise _damaged(directory / file, error) from error


def _damaged(where: Path, found: object) -> ArtifactError:
    return ArtifactError(
        "The state of an unfinished training is damaged.", where=where, found=found, fix=_FIX
    )


def _require_same(path: Path, run: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    differing = [name for name in run if known.get(name) != run[name]]
    if differing:
        raise ArtifactError(
            "An unfinished training of other options lies beside the output.",
            where=path,
            found=", ".join(f"{name} {known.get(name)}" for name in differing),
            expected=", ".join(f"{name} {run[name]}" for name in differing),
            fix=f"ask for the same again to resume it, {_FIX}",
        )
