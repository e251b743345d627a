"""How SIGTERM, SIGINT and SIGHUP end a command, and what is cleared away before they do.

A handler that raises an exception loses it in finalizers, in callbacks of C libraries and in the middle of an
import, and C++ does not always survive one. So nothing is raised: a handler stops the main thread where it
stands, and a thread of this module clears away what was registered here and ends the process.
"""

from __future__ import annotations

import _thread
import os
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

ENDING = {
    signal.SIGTERM: "terminated",
    signal.SIGINT: "interrupted",
    signal.SIGHUP: "terminated: its terminal is gone",
}
"""What is said of each."""

LIMIT_S = 4.0
"""For everything that is cleared away: who stops a service waits no longer than some seconds."""

_RETRY_S = 0.05

_POLL_S = 0.05

_actions: dict[object, Callable[[], object]] = {}


@dataclass(frozen=True, kw_only=True)
class Drain:
    """What a signal lets come to its end first.

    Attributes:
        seconds: At most; a second signal ends it at once.
        begin: Takes nothing new from now on.
        is_done: Whether nothing is left.
    """

    seconds: float
    begin: Callable[[], object]
    is_done: Callable[[], bool]


_drains: list[Drain] = []


@contextmanager
def drained_at_ending(drain: Drain) -> Iterator[None]:
    """Lets work come to its end if a signal ends the process inside the block; see `at_ending` for locks."""
    _drains.append(drain)
    try:
        yield
    finally:
        _drains.remove(drain)


@contextmanager
def at_ending(action: Callable[[], object]) -> Iterator[None]:
    """Calls an action if a signal ends the process inside the block.

    The main thread stands still by then, with whatever locks it holds: the action must not wait for one.
    """
    key = object()
    _actions[key] = action
    try:
        yield
    finally:
        _actions.pop(key, None)


@contextmanager
def removed_at_ending(path: Path) -> Iterator[None]:
    """Removes a file or a directory tree if a signal ends the process inside the block."""
    with at_ending(lambda: remove(path)):
        yield


def remove(path: Path) -> None:
    """Removes a file or a tree that other threads may still be writing to; what cannot go, stays."""
    deadline = time.monotonic() + LIMIT_S / 2
    while os.path.lexists(path) and time.monotonic() < deadline:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
        if os.path.lexists(path):
            time.sleep(_RETRY_S)


def end_on_signals() -> None:
    """Makes the signals of `ENDING` end this process as said above. For the main thread of a command."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True).start()
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in ENDING:
        # A command under nohup outlives its terminal.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stand_still)


def end_by_default() -> None:
    """Gives the signals back to the system: the command is done, and nothing is left to clear away."""
    for number in ENDING:
        if signal.getsignal(number) is _stand_still:
            signal.signal(number, signal.SIG_DFL)


def _stand_still(number: int, frame: FrameType | None) -> None:
    while True:
        time.sleep(LIMIT_S)


def _watch(signals: int) -> None:
    while True:
        number = os.read(signals, 1)[0]
        if number in ENDING:
            for drain in list(_drains):
                with suppress(Exception):
                    number = _second_signal(drain, signals) or number
            _end(signal.Signals(number))


def _second_signal(drain: Drain, signals: int) -> int | None:
    """Drains; returns the signal that ended that before its time."""
    deadline = time.monotonic() + drain.seconds
    drain.begin()
    _say(f"r1trt: ending; what runs has {drain.seconds:g} s, a second signal ends it at once\n")
    while time.monotonic() < deadline and not drain.is_done():
        ready, _, _ = select.select([signals], [], [], _POLL_S)
        if ready and (number := os.read(signals, 1)[0]) in ENDING:
            return number
    return None


def _end(number: signal.Signals) -> None:
    code = 128 + number
    # The main thread may hold any lock of the interpreter's own modules, so none of them is used here.
    _thread.start_new_thread(_exit_later, (code,))
    for action in reversed(list(_actions.values())):
        with suppress(Exception):
            action()
    _say(f"r1trt: {ENDING[number]}; earlier results are unchanged\n")
    os._exit(code)


def _exit_later(code: int) -> None:
    time.sleep(LIMIT_S)
    os._exit(code)


def _say(text: str) -> None:
    with suppress(OSError, ValueError, AttributeError):
        os.write(sys.__stderr__.fileno(), text.encode())  # type: ignore[union-attr]
