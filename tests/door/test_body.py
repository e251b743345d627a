"""Bodies as the front door takes them."""

from __future__ import annotations

import pytest

from r1trt.door.body import object_from_body
from r1trt.door.errors import RefusedError

DEPTH = 8


@pytest.mark.parametrize(
    "text", [b"{}", b' {"a": [1, 2.5, -1e308, "x", null, true]}', '{"é": "模"}'.encode()]
)
def test_objects_are_taken(text: bytes) -> None:
    assert isinstance(object_from_body(text, DEPTH), dict)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "not JSON"),
        (b"[]", "no object"),
        (b"null", "no object"),
        (b'{"a": 1e400}', "1e400 is larger"),
        (b'{"a": -1e400}', "-1e400 is larger"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": -Infinity}', "-Infinity is no number"),
        (b'{"a": ' + b"1" * 5000 + b"}", "a number of 5000 digits"),
        (b'{"a": "\xff"}', "not JSON"),
        (b'{"a": ' * (DEPTH + 1) + b"1" + b"}" * (DEPTH + 1), "nested more than 8 deep"),
        (b"[" * 100_000, "nested more than 8 deep"),
        (rb'{"a": "Hello \ud83d"}', "not Unicode"),
        (rb'{"\udfff": 1}', "not Unicode"),
        (b'{"a": 1, "a": 2}', "a key stands twice"),
        ('{"a": 1}'.encode("utf-16"), "not JSON"),
        (b'{"a": ' + b"1" * 309 + b"}", "a number of 309 digits"),
    ],
)
def test_what_is_no_object(text: bytes, says: str) -> None:
    with pytest.raises(RefusedError) as caught:
        object_from_body(text, DEPTH)
    assert caught.value.status == 400 and says in str(caught.value)
