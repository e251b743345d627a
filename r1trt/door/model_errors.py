"""What an error of the model means in HTTP: Triton says no more of one than its text."""

from __future__ import annotations

import re

from r1trt.serving.fields import FAILED, QUEUE_FULL, STOPPING

_REQUEST_ID = re.compile(r"^\[request id: [^\]]*\] ")


def status_of_error(text: str) -> int:
    """The status of an error by how its text begins; a client's own words may stand further behind."""
    text = _REQUEST_ID.sub("", text)
    if text.startswith((QUEUE_FULL, STOPPING)):
        return 503
    return 500 if text.startswith(FAILED) else 400
