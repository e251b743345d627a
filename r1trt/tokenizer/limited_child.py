"""The process of a foreign program: limits itself, then answers one request after the other.

A frame is its length in 8 bytes, then its bytes: first nothing, then the program, then requests in JSON. Each
is answered by one frame, `{"value": ...}` or `{"error": "..."}`. The process ends with its parent, whose end
closes the pipe.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

LENGTH_BYTES = 8
MOST_REPLY_BYTES = 1 << 26
BYTES_PER_S = 1_000_000
"""What a large request has more time for."""
# The parent kills this process when a call's time is up; this ends it where there is no parent any more.
_GRACE_S = 1.0

Program = Callable[[dict[str, Any]], Any]


def _maker(kind: str) -> Callable[[bytes], Program]:
    """What makes a program of its text; a process loads only the libraries of its own kind."""
    if kind == "template":
        from r1trt.tokenizer.template_program import template_program

        return template_program
    from r1trt.tokenizer.tokenizer_program import tokenizer_program

    return tokenizer_program


def _read(stream: BinaryIO) -> bytes | None:
    head = stream.read(LENGTH_BYTES)
    if len(head) < LENGTH_BYTES:
        return None
    length = int.from_bytes(head, "little")
    frame = stream.read(length)
    return frame if len(frame) == length else None


def _reply(
    make: Callable[[bytes], Program], program: Program | None, frame: bytes
) -> tuple[bytes, Program | None]:
    try:
        if not frame:  # is this process there?
            value = None
        elif program is None:
            program, value = make(frame), None
        else:
            value = program(json.loads(frame))
        reply = json.dumps({"value": value}).encode()
        if len(reply) > MOST_REPLY_BYTES:
            raise ValueError(f"its result has more than {MOST_REPLY_BYTES} bytes")
    except MemoryError:
        reply = json.dumps({"error": "it takes more memory than it may"}).encode()
    except BaseException as error:  # foreign code raises what it likes; Rust's panics are no Exception
        text = str(error) if getattr(error, "is_plain", False) else f"{type(error).__name__}: {error}"
        reply = json.dumps({"error": text[:2000]}).encode()
    return reply, program


def _limit(memory: int) -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[0])
    most = pages * resource.getpagesize() + memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(kind: str, seconds: str, memory: str) -> None:
    """Answers requests until the parent closes the pipe.

    Args:
        kind: "template" or "tokenizer".
        seconds: Time of one request.
        memory: Bytes beyond what this process has before it begins.
    """
    # An interrupt at the terminal reaches all processes; the parent says what ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    requests, replies = os.fdopen(os.dup(0), "rb"), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what foreign code prints is no reply
    make = _maker(kind)
    program: Program | None = None
    _limit(int(memory))
    while (frame := _read(requests)) is not None:
        signal.setitimer(signal.ITIMER_REAL, float(seconds) + len(frame) / BYTES_PER_S + _GRACE_S)
        reply, program = _reply(make, program, frame)
        signal.setitimer(signal.ITIMER_REAL, 0)
        view = memoryview(len(reply).to_bytes(LENGTH_BYTES, "little") + reply)
        while view:
            view = view[os.write(replies, view) :]


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    finally:
        # Nothing is left to say, and a large heap takes long to be taken apart.
        os._exit(0)
