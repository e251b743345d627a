"""Who may ask."""

from __future__ import annotations

from pathlib import Path

import pytest

from r1trt.errors import ConfigError
from r1trt.openai.config import OpenAiConfig, keys_from_file
from r1trt.openai.errors import ApiError
from r1trt.openai.keys import ApiKeys

KEYS = ("sk-0123456789abcdef", "sk-fedcba9876543210")


def test_keys_stand_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# Those of today.\n{KEYS[0]}\n\n  {KEYS[1]}\n")
    assert keys_from_file(path) == KEYS


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "has no key"),
        (b"# none\n", "has no key"),
        (b"short\n", r"This is no key(.|\n)*key 1(.|\n)*16 or more"),
        (f"{KEYS[0]}\nsk-é-0123456789abcdef".encode(), r"This is no key(.|\n)*key 2"),
        (b"sk-0123456789 abcdef", "This is no key"),
        (b"\xff" * 20, "not text in UTF-8"),
        (b"x" * 70_000, "too large"),
    ],
)
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        keys_from_file(path)


@pytest.mark.parametrize("given", [f"Bearer {KEYS[0]}", f"bearer  {KEYS[1]} "])
def test_each_key_lets_in(given: str) -> None:
    ApiKeys(KEYS).require(given)


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer ", KEYS[0], f"Basic {KEYS[0]}", f"Bearer {KEYS[0]}x", "Bearer \xff"]
)
def test_nothing_else_does(given: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        ApiKeys(KEYS).require(given)
    error = caught.value
    assert error.status == 401 and error.code == "invalid_api_key"
    assert error.headers == {"WWW-Authenticate": "Bearer"}
    assert KEYS[0] not in error.message


def test_without_keys_everybody_is_let_in() -> None:
    ApiKeys(()).require(None)


@pytest.mark.parametrize(
    ("host", "keys", "open_to_all"),
    [("127.0.0.1", (), False), ("0.0.0.0", (), True), ("0.0.0.0", KEYS, False), ("::", (), True)],
)
def test_an_address_that_others_reach_is_spoken_of(
    host: str, keys: tuple[str, ...], open_to_all: bool
) -> None:
    note = OpenAiConfig(models=("m",), port=1, host=host, keys=keys).note
    assert (note is not None and "--api-key-file" in note) == open_to_all


def test_keys_are_not_printed() -> None:
    assert KEYS[0] not in repr(OpenAiConfig(models=("m",), port=1, keys=KEYS))
