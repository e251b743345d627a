"""Foreign programs in a process of their own, which has limited memory and is killed when its time is up.

A chat template and a tokenizer with patterns of its own are programs that come with a checkpoint. One
operation of theirs may take all memory or hours, inside of a library that nothing here can interrupt.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1trt.lifetime.children import child_group
from r1trt.tokenizer.limited_child import BYTES_PER_S, LENGTH_BYTES, MOST_REPLY_BYTES

_CHILD = "r1trt.tokenizer.limited_child"
# For Python itself to start, on a machine where others work.
_START_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a program may take.

    Attributes:
        seconds: Of one call, and one more for each megabyte of it.
        memory: Bytes, all calls together.
    """

    seconds: float = 4.0
    memory: int = 512 * 10**6


class ForeignError(Exception):
    """The program raised something, or took more than it may; the text says what."""


class LimitedProcess:
    """A foreign program that can be called; any thread may, one at a time.

    It starts at once, and `call` waits for it. A call that ends its process costs only that call: the next
    one starts another.

    Args:
        kind: "template" or "tokenizer".
        setup: The program: Jinja text, or a tokenizer.json.
        limits: What it may take.
    """

    def __init__(self, kind: str, setup: bytes, limits: Limits) -> None:
        self._kind, self._setup, self._limits = kind, setup, limits
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._is_ready = False
        self._start()

    def call(self, request: Mapping[str, Any]) -> Any:
        """Calls the program; see `require_ready`."""
        with self._lock:
            self._make_ready()
            return self._answer(json.dumps(request).encode(), self._limits.seconds)

    def require_ready(self) -> None:
        """Waits until the program is compiled or loaded.

        Raises:
            ForeignError: It cannot be, or not within the limits.
        """
        with self._lock:
            self._make_ready()

    def close(self) -> None:
        """Ends the process; a call starts another."""
        with self._lock:
            self._stop()

    def _start(self) -> None:
        path = os.pathsep.join(item for item in sys.path if item)
        limits = [str(self._limits.seconds), str(self._limits.memory)]
        self._child = subprocess.Popen(
            [_python(), "-P", "-m", _CHILD, self._kind, *limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # where Rust prints its panics, which come as errors, too
            env={**os.environ, "PYTHONPATH": path},
            bufsize=0,
            process_group=child_group(),
        )
        self._is_ready = False
        self._end = weakref.finalize(self, _kill, self._child)

    def _make_ready(self) -> None:
        if self._child is None:
            self._start()
        if not self._is_ready:
            self._answer(b"", _START_S)
            self._answer(self._setup, self._limits.seconds)
            self._is_ready = True

    def _answer(self, frame: bytes, seconds: float) -> Any:
        assert self._child is not None
        deadline = time.monotonic() + seconds + len(frame) / BYTES_PER_S
        try:
            _write(self._child, frame)
            reply = json.loads(_read(self._child, deadline))
        except TimeoutError as error:
            self._stop()
            raise ForeignError(f"it runs for more than {seconds:g} seconds") from error
        except (OSError, EOFError, ValueError) as error:
            raise ForeignError(self._said_of_end()) from error
        except BaseException:  # an interrupt between a request and its reply
            self._stop()
            raise
        if "error" in reply:
            raise ForeignError(str(reply["error"]))
        return reply["value"]

    def _said_of_end(self) -> str:
        """Why the process ended by itself; ends what is left of it."""
        assert self._child is not None
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(1.0)
        status, is_ready = self._child.poll(), self._is_ready
        self._stop()
        how = signal.Signals(-status).name if status is not None and status < 0 else f"exit status {status}"
        if is_ready or (status or 0) < 0:
            return (
                f"its process ended ({how}); most often it takes more than {self._limits.memory // 10**6} MB"
            )
        return f"its process cannot be started ({how}): {_python()} -m {_CHILD}"

    def _stop(self) -> None:
        if self._child is not None:
            self._end()
            self._child = None


def _python() -> str:
    """The interpreter; an embedding program, such as Triton's stub, may call itself Python's executable."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    places = [
        Path(prefix, "bin", name) for prefix in (sys.prefix, sys.base_prefix) for name in ("python3", version)
    ]
    named = [Path(sys.executable)] if Path(sys.executable or "").name.startswith("python") else []
    return str(next((path for path in [*named, *places] if path.is_file()), version))


def _kill(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            stream.close()


def _write(child: subprocess.Popen[bytes], frame: bytes) -> None:
    assert child.stdin is not None
    view = memoryview(len(frame).to_bytes(LENGTH_BYTES, "little") + frame)
    while view:
        view = view[os.write(child.stdin.fileno(), view) :]


def _read(child: subprocess.Popen[bytes], deadline: float) -> bytes:
    length = int.from_bytes(_read_exactly(child, LENGTH_BYTES, deadline), "little")
    if length > MOST_REPLY_BYTES:
        raise ValueError("a reply that no program of ours sends")
    return _read_exactly(child, length, deadline)


def _read_exactly(child: subprocess.Popen[bytes], count: int, deadline: float) -> bytes:
    assert child.stdout is not None
    descriptor, pieces = child.stdout.fileno(), bytearray()
    while len(pieces) < count:
        # NOTES: poll and not select, which takes no descriptor above 1023.
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(max(deadline - time.monotonic(), 0) * 1000):
            raise TimeoutError
        piece = os.read(descriptor, min(count - len(pieces), 1 << 16))
        if not piece:
            raise EOFError
        pieces += piece
    return bytes(pieces)
