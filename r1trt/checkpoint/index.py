"""Finds a checkpoint's .safetensors files: one `model.safetensors`, or shards listed by an index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from r1trt.checkpoint.safetensors_header import SafetensorsHeader, read_safetensors_header
from r1trt.errors import CheckpointError
from r1trt.files import INDEX_BYTES
from r1trt.strict_json import json_object_from_file

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
LISTED = 20
_NAME_BYTES, _MOST_FILES, _MOST_TENSORS = 255, 10_000, 1_000_000


def bullet_list(title: str, lines: Iterable[str]) -> list[str]:
    """Formats findings for a message: a title with their count, then at most `LISTED` of them."""
    found = list(lines)
    if not found:
        return []
    rest = [f"    ... and {len(found) - LISTED} more"] if len(found) > LISTED else []
    return [f"  {title} ({len(found)}):", *(f"    {line}" for line in found[:LISTED]), *rest]


def headers_from_dir(directory: Path) -> tuple[SafetensorsHeader, ...]:
    """Reads the headers of all weight files of a checkpoint.

    Args:
        directory: The checkpoint's directory.

    Returns:
        One header a file, sorted by file name; no tensor name occurs twice.

    Raises:
        CheckpointError: There are no safetensors files, the index is malformed, names files outside the
            directory or missing ones, or disagrees with the files.
    """
    # NOTES: transformers looks in this order too, so both read the same weights when both are there.
    if _exists(directory / SINGLE_FILE):
        return (read_safetensors_header(directory, SINGLE_FILE),)
    if not _exists(directory / INDEX_FILE):
        raise _no_weights(directory)
    weight_map = _weight_map(directory / INDEX_FILE)
    files = sorted(set(weight_map.values()))
    for file in files:
        _check_location(directory, file)
    missing = [file for file in files if not (directory / file).exists()]
    if missing:
        lines = bullet_list("missing shards", missing)
        raise CheckpointError(
            "\n".join(["checkpoint is incomplete", *lines]),
            where=directory,
            expected=f"the {len(files)} files that {INDEX_FILE} names",
            fix="download the missing files, e.g. with `hf download MODEL --local-dir DIRECTORY`",
        )
    headers = tuple(_headers(directory, files))
    _check_index_agrees(directory, weight_map, headers)
    return headers


def _headers(directory: Path, files: Sequence[str]) -> Iterator[SafetensorsHeader]:
    """Reads headers as long as they are not more than any model has."""
    tensors = 0
    for file in files:
        header = read_safetensors_header(directory, file)
        tensors += len(header.tensors)
        if tensors > _MOST_TENSORS or len(files) > _MOST_FILES:
            raise CheckpointError(
                "checkpoint has more tensors or files than any model",
                where=directory / INDEX_FILE,
                found=f"{len(files)} files, {tensors} tensors or more",
                expected=f"at most {_MOST_FILES} files and {_MOST_TENSORS} tensors",
            )
        yield header


def _exists(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _no_weights(directory: Path) -> CheckpointError:
    patterns = ("pytorch_model*.bin*", "*.pt", "*.pth")
    pickles = sorted(path for pattern in patterns for path in directory.glob(pattern))
    if pickles:
        return CheckpointError(
            "checkpoint has only pickled weights: reading those can run code, so they are never opened",
            where=directory,
            found=", ".join(path.name for path in pickles[:LISTED]),
            expected=f"{SINGLE_FILE} or {INDEX_FILE}",
            fix="convert to safetensors: in a sandbox, load the model with transformers and call "
            "save_pretrained(DIRECTORY, safe_serialization=True)",
        )
    others = sorted(path.name for path in directory.glob("*.safetensors"))
    if len(others) > 1:
        return CheckpointError(
            "checkpoint has several weight files and no index: nothing says whose tensors count",
            where=directory,
            found=", ".join(others[:LISTED]),
            expected=f"{INDEX_FILE} beside them, or {SINGLE_FILE} alone",
            fix=f"download {INDEX_FILE} of the same revision",
        )
    return CheckpointError(
        "checkpoint has no weights",
        where=directory,
        found=", ".join(others[:LISTED]) or "no .safetensors file",
        expected=f"{SINGLE_FILE} or {INDEX_FILE}",
        fix="name the directory that holds config.json beside the complete set of weight files",
    )


def _weight_map(path: Path) -> Mapping[str, str]:
    weight_map = json_object_from_file(path, limit=INDEX_BYTES).get("weight_map")
    is_map = isinstance(weight_map, dict) and all(isinstance(file, str) for file in weight_map.values())
    if not is_map or not weight_map:
        raise CheckpointError(
            "index is malformed",
            where=path,
            found=f"weight_map {repr(weight_map)[:200]}",
            expected="weight_map: an object from tensor names to file names",
        )
    assert isinstance(weight_map, dict)
    return weight_map


def _check_location(directory: Path, file: str) -> None:
    """Refuses a shard name that could lead out of the directory.

    A shard may itself be a symbolic link (the Hugging Face cache links every file to a blob elsewhere): that
    link was made on this machine. The *name* comes from the download, and must stay inside.
    """
    path = PurePosixPath(file)
    is_plain = file.isprintable() and "\\" not in file and str(path) == file
    is_plain = is_plain and all(len(part.encode()) <= _NAME_BYTES for part in path.parts)
    if not is_plain or path.is_absolute() or ".." in path.parts or not file.endswith(".safetensors"):
        problem = "not a relative path inside the checkpoint"
    elif not (directory / path).parent.resolve().is_relative_to(directory.resolve()):
        problem = "its folder is a link that leaves the checkpoint"
    else:
        return
    raise CheckpointError(
        "index names a file that is not safe to open",
        where=directory / INDEX_FILE,
        found=f"{file[:200]!r}: {problem}",
        expected="relative .safetensors file names",
    )


def _check_index_agrees(
    directory: Path, weight_map: Mapping[str, str], headers: tuple[SafetensorsHeader, ...]
) -> None:
    held = {(tensor.name, header.file) for header in headers for tensor in header.tensors}
    listed = set(weight_map.items())
    lines = [
        *bullet_list("in the index, not in its shard", _places(listed - held)),
        *bullet_list("in a shard, not in the index for it", _places(held - listed)),
    ]
    if lines:
        raise CheckpointError(
            "\n".join(["index and shards disagree", *lines]),
            where=directory / INDEX_FILE,
            expected="index and shards of the same download",
            fix="download the checkpoint again, all files of one revision",
        )


def _places(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{name[:200]} ({file})" for name, file in sorted(pairs)]
