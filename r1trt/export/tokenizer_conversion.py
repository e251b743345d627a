"""tokenizer.json of a tokenizer in another form, made by transformers where that is installed.

A process of its own converts, with limits: what it reads is a checkpoint's. As a program:
`python -m r1trt.export.tokenizer_conversion DIRECTORY OUTPUT`.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from r1trt.files import is_there
from r1trt.lifetime.children import child_group

_MOST_SECONDS, _MOST_BYTES, _MOST_CHARACTERS = 120, 8 << 30, 300
# Files of tokenizers that transformers converts, by the name of their form.
_FORMS = {
    "tokenizer.model": ("tokenizer.model",),
    "spiece.model": ("spiece.model",),
    "sentencepiece.bpe.model": ("sentencepiece.bpe.model",),
    "tekken.json": ("tekken.json",),
    "vocab.json and merges.txt": ("vocab.json", "merges.txt"),
}


class ConversionError(Exception):
    """A tokenizer was not converted; says why."""


def other_form(directory: Path) -> str | None:
    """What a directory has in place of tokenizer.json; None where it has no tokenizer."""
    found = (form for form, names in _FORMS.items() if all((directory / name).is_file() for name in names))
    return next(found, None)


def files_of_forms(directory: Path) -> list[Path]:
    """Files of such tokenizers in a directory, as far as they are there."""
    names = dict.fromkeys(name for names in _FORMS.values() for name in names)
    return [directory / name for name in names if is_there(directory / name)]


def convert_tokenizer(directory: Path, output: Path) -> str:
    """Writes tokenizer.json, and beside it what transformers says of the tokenizer.

    Args:
        directory: A checkpoint's.
        output: A folder for the files.

    Returns:
        What converted it, with its version.

    Raises:
        ConversionError: transformers is not installed, or does not read the files.
    """
    try:
        version = metadata.version("transformers")
    except metadata.PackageNotFoundError as error:
        raise ConversionError("transformers is not installed") from error
    command = [sys.executable, "-m", __name__, str(directory.resolve()), str(output)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "warning"}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=_MOST_SECONDS, check=False, process_group=child_group(),
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ConversionError(f"it took more than {_MOST_SECONDS} seconds") from error
    if done.returncode != 0:
        raise ConversionError(_reason(done))
    return f"transformers {version}"


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    # After a damaged SentencePiece model transformers goes on with a form that it is not, and names that.
    lines = [line for line in lines if "Could not extract" in line] or lines
    return lines[-1][:_MOST_CHARACTERS] if lines else f"its process ended with {done.returncode}"


def _main(directory: str, output: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_MOST_SECONDS, _MOST_SECONDS))
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        tokenizer.save_pretrained(output)
    except Exception as error:  # whatever the libraries raise: its text is the reason
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
    # The files are written. sentencepiece 0.2.1 crashes where the interpreter unloads it.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    _main(*sys.argv[1:])
