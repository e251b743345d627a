"""What people name in place of a checkpoint, and what they have in place of its weights: what helps them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from r1trt.checkpoint.names import INDEX_FILE, LISTED, SINGLE_FILE
from r1trt.errors import CheckpointError
from r1trt.files import text_of_file

_ADAPTER, _ADAPTER_BYTES = "adapter_config.json", 1 << 20
_CHECKPOINT = "a directory with config.json and .safetensors files"
_WEIGHTS = f"{SINGLE_FILE} or {INDEX_FILE}"
_DOWNLOAD = "pass the directory of a checkpoint, e.g. from `hf download MODEL --local-dir DIRECTORY`"
_MERGE = "merge it into that model: load both with peft, call merge_and_unload() and save_pretrained()"
_CONVERT = "convert to safetensors: in a sandbox, load it with transformers and call save_pretrained()"


def no_checkpoint(path: Path) -> CheckpointError:
    """The error for what is no directory with config.json.

    Args:
        path: What was named.
    """
    inside, snapshots = _with_config(path), _with_config(path / "snapshots")
    if not path.is_dir():
        message, found, fix = (
            "checkpoint is not a directory",
            "a file" if path.exists() else "nothing",
            _DOWNLOAD,
        )
    elif adapter := _adapter(path):
        message, found, fix = "this is an adapter (LoRA), not a model", adapter, _MERGE
    elif (path / "snapshots").is_dir():
        message, found = (
            "this is a folder of Hugging Face's cache, not a checkpoint",
            f"snapshots: {_names(snapshots)}",
        )
        fix = f"name a snapshot: {snapshots[-1]}" if snapshots else _DOWNLOAD
    elif inside:
        message, found = "directory is not a checkpoint, but checkpoints lie in it", _names(inside)
        fix = f"name the one that is meant, e.g. {inside[-1]}"
    else:
        message, found, fix = "directory is not a checkpoint", "no config.json", _DOWNLOAD
    return CheckpointError(message, where=path, found=found, expected=_CHECKPOINT, fix=fix)


def no_weights(path: Path) -> CheckpointError:
    """The error for a directory without weights that can be read.

    Args:
        path: A directory with config.json.
    """
    pickles = [name for pattern in ("pytorch_model*.bin*", "*.pt", "*.pth") for name in _files(path, pattern)]
    others = _files(path, "*.safetensors")
    if ggufs := _files(path, "*.gguf"):
        message, found = "checkpoint has its weights in GGUF, which is quantized for other programs", ggufs
        fix = "take the checkpoint in safetensors that the file was made of"
    elif adapter := _adapter(path):
        message, found, fix = "the weights are an adapter's (LoRA), not a model's", [adapter], _MERGE
    elif pickles:
        message = "checkpoint has only pickled weights: reading those can run code, so they are never opened"
        found, fix = sorted(pickles), _CONVERT
    else:
        message, found = "checkpoint has no weights", others or ["no .safetensors file"]
        fix = f"call a model's only file {SINGLE_FILE}, or name the directory with all of its files"
    return CheckpointError(message, where=path, found=", ".join(found[:LISTED]), expected=_WEIGHTS, fix=fix)


def _files(path: Path, pattern: str) -> list[str]:
    return sorted(file.name for file in path.glob(pattern))


def _with_config(path: Path) -> list[Path]:
    """Folders in a folder with a config.json; numbers in their names by size."""
    folders = [entry.parent for entry in path.glob("*/config.json")]
    return sorted(folders, key=lambda folder: [int(part) for part in re.findall(r"\d{1,18}", folder.name)])


def _names(folders: Sequence[Path]) -> str:
    return ", ".join(folder.name for folder in folders[:LISTED]) or "none"


def _adapter(path: Path) -> str | None:
    """An adapter's file, and the model that it says it is for."""
    config = path / _ADAPTER
    if not config.is_file():
        return None
    try:
        base = json.loads(text_of_file(config, limit=_ADAPTER_BYTES))["base_model_name_or_path"]
    except (CheckpointError, ValueError, KeyError, TypeError, RecursionError):
        return _ADAPTER
    return f"{_ADAPTER}, for {str(base)[:200]}"
