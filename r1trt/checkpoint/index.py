"""Finds a checkpoint's .safetensors files: one `model.safetensors`, or shards listed by an index."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from r1trt.checkpoint.layout import no_weights
from r1trt.checkpoint.names import INDEX_FILE, SINGLE_FILE, bullet_list
from r1trt.checkpoint.safetensors_header import SafetensorsHeader, read_safetensors_header
from r1trt.errors import CheckpointError
from r1trt.files import INDEX_BYTES
from r1trt.strict_json import json_object_from_file

SHARD = re.compile(r"(?P<name>.+)-\d{5}-of-(?P<count>\d{5})\.safetensors")
_NAME_BYTES, _MOST_FILES, _MOST_TENSORS = 255, 10_000, 1_000_000


@dataclass(frozen=True, kw_only=True)
class WeightFiles:
    """The weight files of a checkpoint.

    Attributes:
        headers: One a file, sorted by file name; no tensor name occurs twice.
        unlisted: Tensors that stand in the files, and not in the index.
        notes: What a user should know of how the files were found.
    """

    headers: tuple[SafetensorsHeader, ...]
    unlisted: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def weight_files_from_dir(directory: Path) -> WeightFiles:
    """Reads the headers of all weight files of a checkpoint.

    Args:
        directory: The checkpoint's directory.

    Raises:
        CheckpointError: There are no safetensors files, the index is malformed, names files outside the
            directory or missing ones, or disagrees with the files; or there is no index, and a file is
            missing, or a tensor stands in two.
    """
    # NOTES: transformers looks in this order too, so both read the same weights when both are there.
    if _exists(directory / SINGLE_FILE):
        return WeightFiles(headers=(read_safetensors_header(directory, SINGLE_FILE),))
    if not _exists(directory / INDEX_FILE):
        return _files_without_index(directory)
    weight_map = _weight_map(directory / INDEX_FILE)
    files = sorted(set(weight_map.values()))
    for file in files:
        _check_location(directory, file)
    _require_files(
        directory,
        [file for file in files if not (directory / file).exists()],
        f"the {len(files)} files that {INDEX_FILE} names",
    )
    headers = tuple(_headers(directory, files))
    unlisted = _check_index_agrees(directory, weight_map, headers)
    return WeightFiles(headers=headers, unlisted=unlisted)


def _files_without_index(directory: Path) -> WeightFiles:
    """All shards of a directory, where their names say that none is missing and no tensor stands in two."""
    files = sorted(path.name for path in directory.glob("*.safetensors") if SHARD.fullmatch(path.name))
    if not files:
        raise no_weights(directory)
    _require_files(directory, missing_shards(files), "all files that the names count")
    headers = tuple(_headers(directory, files))
    counts = Counter(tensor.name for header in headers for tensor in header.tensors)
    if twice := [name[:200] for name, count in sorted(counts.items()) if count > 1]:
        raise CheckpointError(
            "\n".join(["nothing says which of two tensors counts", *bullet_list("in two files", twice)]),
            where=directory,
            found=f"no {INDEX_FILE}",
            fix=f"download {INDEX_FILE} of the same revision, or remove the files of another one",
        )
    note = f"There is no {INDEX_FILE}: the tensors of all {len(files)} shards are read."
    return WeightFiles(headers=headers, notes=(note,))


def _require_files(directory: Path, missing: Sequence[str], expected: str) -> None:
    if missing:
        lines = bullet_list("missing shards", missing)
        raise CheckpointError(
            "\n".join(["checkpoint is incomplete", *lines]),
            where=directory,
            expected=expected,
            fix="download the missing files, e.g. with `hf download MODEL --local-dir DIRECTORY`",
        )


def missing_shards(files: Sequence[str]) -> list[str]:
    """Files that the names of others speak of: for `model-00001-of-00003.safetensors`, the other two."""
    shards = [match for match in map(SHARD.fullmatch, files) if match is not None]
    named = {
        f"{match['name']}-{number:05}-of-{match['count']}.safetensors"
        for match in shards
        for number in range(1, min(int(match["count"]), _MOST_FILES) + 1)
    }
    return sorted(named - set(files))


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
) -> frozenset[str]:
    """Tensors that no index lists; refuses those that are not where it says, and those in two files."""
    held = [(tensor.name, header.file) for header in headers for tensor in header.tensors]
    counts = Counter(name for name, _ in held)
    unlisted = {name for name, count in counts.items() if count == 1 and name not in weight_map}
    listed = set(weight_map.items())
    elsewhere = {(name, file) for name, file in held if name not in unlisted} - listed
    lines = [
        *bullet_list("in the index, not in its shard", _places(listed - set(held))),
        *bullet_list("in a shard, not in the index for it", _places(elsewhere)),
    ]
    if lines:
        raise CheckpointError(
            "\n".join(["index and shards disagree", *lines]),
            where=directory / INDEX_FILE,
            expected="index and shards of the same download",
            fix="download the checkpoint again, all files of one revision",
        )
    return frozenset(unlisted)


def _places(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{name[:200]} ({file})" for name, file in sorted(pairs)]
