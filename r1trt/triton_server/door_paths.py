"""What may pass to the server: its paths."""

from __future__ import annotations

import re

_MODEL = r"/v2/models/(?P<model>[^/?]+)(/versions/[^/?]+)?"
_READ = re.compile(rf"/v2(/health/(live|ready)|/models/stats|{_MODEL[3:]}(/(ready|config|stats))?)?/?(\?.*)?")
_ASK = re.compile(rf"{_MODEL}/(generate|generate_stream|infer)(\?.*)?")
_TEXT = re.compile(rf"{_MODEL}/(generate|generate_stream)(\?.*)?")
_INDEX = "/v2/repository/index"


def allowed_methods(target: str) -> tuple[str, ...]:
    """Methods that a path may be asked with; none for what changes the server, or is no path of it."""
    if _ASK.fullmatch(target):
        return ("POST",)
    if _READ.fullmatch(target):
        return ("GET", "HEAD")
    return ("POST",) if target == _INDEX else ()


def takes_no_body(target: str) -> bool:
    """Whether a path that is asked with POST may be asked without a body."""
    return target == _INDEX


def asks_for_text(target: str) -> bool:
    """Whether a path takes the fields of a request by name."""
    return _TEXT.fullmatch(target) is not None


def is_stream(target: str) -> bool:
    """Whether a path that takes them sends text as it is generated."""
    return target.partition("?")[0].endswith("/generate_stream")


def model_asked(target: str) -> str | None:
    """The model that a path asks; None where it asks none."""
    found = _ASK.fullmatch(target)
    return None if found is None else found["model"]
