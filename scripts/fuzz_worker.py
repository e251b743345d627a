"""One process of the fuzzer: makes inputs by their numbers, and gives them to readers.

    python scripts/fuzz_worker.py CORPUS

Each line of its input is a JSON object with seed, reader, number and folder; each line of its output says
what became of it.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import traceback
from pathlib import Path
from random import Random
from typing import Any

import click
from fuzz_readers import READERS, Reader

BY_NAME = {reader.name: reader for reader in READERS}
VALID = -12
"""The number of the input that is the valid file itself."""
# What may stand in a file's place: what is no file, or has no end.
_SPECIAL_SHARE = 0.02


def input_of(reader: Reader, seed: str, number: int, corpus: Path, folder: Path) -> bool:
    """Writes an input into a folder; returns whether the parser of its kind takes it."""
    random = Random(f"{seed}:{reader.name}:{number}")
    source = corpus / reader.directory
    shutil.copytree(source, folder, copy_function=os.link, symlinks=True)
    if not (folder / "export").exists() and reader.directory in ("single", "planned"):
        (folder / "export").symlink_to(corpus / "export")
    file = folder / reader.file
    if number == VALID:
        return True
    data = file.read_bytes()
    file.unlink()
    if reader.is_file and random.random() < _SPECIAL_SHARE:
        _put_special(file, random)
        return False
    data = reader.mutate(data, random)
    file.write_bytes(data)
    try:
        return bool(reader.parses(data))
    except Exception:
        return False


def _put_special(file: Path, random: Random) -> None:
    match random.randrange(5):
        case 0:
            os.mkfifo(file)
        case 1:
            file.mkdir()
        case 2:
            file.symlink_to(
                random.choice(("/dev/zero", "/dev/null", "/dev/stdin", "/proc/self/mem", file.name))
            )
        case 3:
            with file.open("wb") as empty:
                empty.truncate(random.choice((1 << 31, 1 << 40)))
        case _:
            file.write_bytes(b"")


def outcome_of(reader: Reader, folder: Path, number: int) -> dict[str, Any]:
    """Gives an input to its reader."""
    from r1trt.errors import R1TrtError

    try:
        reader.read(folder, number % 12)
    except (R1TrtError, click.ClickException) as error:
        return {"outcome": "refused", "text": f"{type(error).__name__}: {error}"}
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        text = "".join(traceback.format_exception(error))
        return {"outcome": "traceback", "text": text[-4000:]}
    return {"outcome": "taken", "text": ""}


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def _forget_peak() -> int:
    """Makes the peak of memory what is taken now, and returns it."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_bytes()


def main(corpus: Path) -> None:
    """Answers requests until there are no more."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    nothing = os.open(os.devnull, os.O_RDWR)
    requests = os.fdopen(os.dup(0))
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    # What takes seconds to import is not to count as an input's time.
    importlib.import_module("transformers.models.auto.modeling_auto")
    replies.write("{}\n")
    for line in requests:
        asked = json.loads(line)
        reader, folder = BY_NAME[asked["reader"]], Path(asked["folder"])
        parsed = input_of(reader, asked["seed"], asked["number"], corpus, folder)
        before = _forget_peak()
        found = outcome_of(reader, folder, asked["number"])
        growth = _peak_bytes() - before
        replies.write(json.dumps({"parsed": parsed, "growth": growth, **found}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
