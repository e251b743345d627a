"""Drafts of a request that decodes alone: beside others a draft would pad their rows to its own length."""

from __future__ import annotations

from r1trt.runtime.prompt_lookup import most_drafted
from r1trt.runtime.session import SessionLimits
from r1trt.serving.active_request import ActiveRequest


def drafted(active: ActiveRequest, limits: SessionLimits) -> list[int]:
    """Tokens that may follow a request's last one; none where nothing is looked up, or nothing found."""
    if active.lookup is None or not active.new_tokens:
        return []
    wanted = active.request.max_new_tokens - active.new_tokens - 1
    return active.lookup.draft(min(most_drafted(limits, active.past), wanted))


def accepted(active: ActiveRequest) -> int:
    """Tokens of all its drafts that were chosen."""
    return 0 if active.lookup is None else active.lookup.accepted
