"""The fuzzer: readers take their valid files, 500 mutated ones end in order, and what fails is found."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
from scripts_under_test import REPOSITORY, run_script

sys.path.insert(0, str(REPOSITORY / "scripts"))

import fuzz_readers
import fuzz_worker
from fuzz_corpus import make_corpus
from fuzz_mutations import VALUES, document_mutated, json_mutation

FUZZ = REPOSITORY / "scripts" / "fuzz.py"
READERS = {reader.name: reader for reader in fuzz_readers.READERS}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("fuzz") / "corpus")


@pytest.mark.parametrize("name", READERS)
def test_each_reader_takes_its_valid_file(name: str, corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "input"
    assert fuzz_worker.input_of(READERS[name], "0", fuzz_worker.VALID, corpus, folder)
    found = fuzz_worker.outcome_of(READERS[name], folder, 2)
    assert found["outcome"] == "taken", found["text"]


def test_500_inputs(tmp_path: Path) -> None:
    receipt = tmp_path / "fuzz.json"
    arguments = ("--inputs", 500, "--seed", "tests", "--jobs", 2, "--keep", tmp_path / "kept")
    done = run_script(FUZZ, *arguments, "--json", receipt)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(receipt.read_text())["readers"].values()
    assert sum(count["inputs"] for count in counts) == 500
    assert sum(count["parsed"] for count in counts) > 500 / 3


FAULTS = {
    "traceback": "1 / 0",
    "hang": "__import__('time').sleep(60)",
    # Held for a moment: memory is sampled while a reader works.
    "memory": "(lambda held: __import__('time').sleep(0.3))(bytearray(3 << 29))",
    "crash": "os._exit(7)",
}


# A busy machine takes seconds to give the memory that is asked for: only what hangs is waited for less.
PATIENCE = {"hang": 2.0}


def faulty_fuzzer(directory: Path, kind: str) -> Path:
    """The fuzzer with a reader that does something else."""
    for name in ("r1trt", "docs"):
        (directory / name).symlink_to(REPOSITORY / name)
    scripts = directory / "scripts"
    scripts.mkdir()
    for path in (REPOSITORY / "scripts").glob("*.py"):
        text = path.read_text().replace("reader.read(folder, number % 12)", FAULTS[kind])
        limits = f"BYTES = {PATIENCE.get(kind, 60.0)}, 10**9"
        (scripts / path.name).write_text(text.replace("BYTES = 10.0, 10**9", limits))
    return scripts / "fuzz.py"


@pytest.mark.parametrize("kind", FAULTS)
def test_what_fails_is_found_and_kept(kind: str, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    options = ("--inputs", 2, "--readers", "layers.json", "--jobs", 1, "--keep", kept)
    done = run_script(faulty_fuzzer(tmp_path, kind), *options)
    assert done.returncode == 1
    assert f"{kind}: layers.json 0: " in done.stdout
    assert f"{kind}: layers.json 1: " in done.stdout, "the process is replaced"
    assert (kept / "layers.json-0-0" / "outcome.txt").read_text().startswith(kind)


def test_inputs_are_made_of_seed_and_number() -> None:
    document: dict[str, Any] = {"a": [1, {"b": "text"}], "c": None}
    data = json.dumps(document).encode()
    made = [json_mutation()(data, Random(f"1:{number}")) for number in range(200)]
    assert made == [json_mutation()(data, Random(f"1:{number}")) for number in range(200)]
    assert len(set(made)) > 100


def test_the_document_that_is_mutated_stays_as_it_was() -> None:
    document: dict[str, Any] = {"a": [1, {"b": "text"}], "c": None}
    before, values = json.dumps(document), repr(VALUES)
    for number in range(300):
        document_mutated(document, Random(number))
    assert json.dumps(document) == before
    assert repr(VALUES) == values
