"""JSON from elsewhere: what is refused, and before it takes memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from r1trt.errors import CheckpointError, ConfigError
from r1trt.files import CONFIG_BYTES
from r1trt.strict_json import MAX_VALUES, json_object_from_bytes, json_object_from_file

REFUSED = {
    "a key twice": (b'{"a": 1, "a": 2}', "key 'a' twice"),
    "a key twice inside": (b'{"x": [{"a": 1, "a": 2}]}', "key 'a' twice"),
    "a constant": (b'{"a": NaN}', "NaN, which JSON does not have"),
    "infinity": (b'{"a": 1e999}', "beyond every number format"),
    "a long integer": (b'{"a": ' + b"9" * 5000 + b"}", "invalid JSON"),
    "half a surrogate pair": (b'{"a": "\\ud800"}', "half of a surrogate pair"),
    "half a pair in a key": (b'{"\\ud800": 1}', "half of a surrogate pair"),
    "a list": (b"[]", "a list"),
    "nesting": (b'{"a":' + b"[" * 100_000, "nested too deeply|values"),
    "not UTF-8": (b'{"a": "\xff"}', "invalid JSON"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    data, message = REFUSED[name]
    with pytest.raises(CheckpointError, match=message) as caught:
        json_object_from_bytes(data, "here")
    assert caught.value.details["where"] == "here"


def test_pairs_of_surrogates_are_characters() -> None:
    assert json_object_from_bytes(b'{"a": "\\ud83e\\udd99"}', "here") == {"a": "\N{LLAMA}"}


def test_too_many_values_are_refused_before_they_are_made() -> None:
    data = b'{"a": [' + b"[]," * MAX_VALUES + b"[]]}"
    tracemalloc.start()
    with pytest.raises(ConfigError, match="values"):
        json_object_from_bytes(data, "here", error=ConfigError)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_large_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b'{"a": "' + b"x" * CONFIG_BYTES + b'"}')
    with pytest.raises(CheckpointError, match="too large"):
        json_object_from_file(path)
