"""Signals end a program wherever Python is, and what was registered is gone."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from r1trt.lifetime.ending import at_ending, remove, removed_at_ending

BEGIN = """
import ctypes, sys, time, weakref
from pathlib import Path
from r1trt.lifetime.ending import end_by_default, end_on_signals, removed_at_ending
end_on_signals()
target = Path(sys.argv[1])
"""
# A handler that raises loses its exception in the first four; the last waits in C, with the interpreter free.
PLACES = {
    "finalizer": """
class Finalized:
    def __del__(self): wait()
Finalized()
""",
    "weakref": """
class Plain: pass
plain = Plain()
reference = weakref.ref(plain, wait)
del plain
""",
    "callback": """
compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(wait)
ctypes.CDLL(None).qsort((ctypes.c_int * 8)(), 8, 4, compare)
""",
    "import": """
(target.parent / "waits.py").write_text("import __main__\\n__main__.wait()")
sys.path.insert(0, str(target.parent))
import waits
""",
    "sleep": "wait()",
    "C": """
print("ready", flush=True)
ctypes.CDLL(None).sleep(60)
""",
}
WAIT = """
def wait(*_):
    print("ready", flush=True)
    end = time.monotonic() + 60
    while time.monotonic() < end: pass
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("place", PLACES)
def test_a_signal_ends_the_process_and_clears_away(
    place: str, number: signal.Signals, tmp_path: Path
) -> None:
    target = tmp_path / "half"
    begin = "target.mkdir(); (target / 'file').touch()\nwith removed_at_ending(target):\n"
    body = "".join(f"    {line}\n" for line in PLACES[place].splitlines())
    code, errors = _ended(BEGIN + WAIT + begin + body, target, number)
    assert code == 128 + number
    assert errors.count("\n") == 1 and "earlier results are unchanged" in errors
    assert not target.exists()


DRAIN = """
from r1trt.lifetime.ending import Drain, drained_at_ending
end_on_signals()
target.mkdir()
begun, done = target / "begun", target / "done"
with drained_at_ending(Drain(seconds=600, begin=begun.touch, is_done=done.exists)):
    wait()
"""


@pytest.mark.parametrize("second", [None, signal.SIGINT])
def test_what_runs_comes_to_its_end_before_the_process_unless_a_second_signal_comes(
    tmp_path: Path, second: signal.Signals | None
) -> None:
    target = tmp_path / "work"
    command = [sys.executable, "-c", BEGIN.replace("end_on_signals()\n", "") + WAIT + DRAIN, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        while not (target / "begun").exists():
            time.sleep(0.01)
        if second is None:
            (target / "done").touch()
        else:
            process.send_signal(second)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + (second or signal.SIGTERM)
    assert "what runs has 600 s" in errors


def test_a_thread_that_still_writes_does_not_keep_a_tree_alive(tmp_path: Path) -> None:
    program = """
import threading
def write():
    for number in range(10**9):
        try:
            target.mkdir(exist_ok=True)
            (target / str(number)).touch()
        except OSError:
            return
threading.Thread(target=write, daemon=True).start()
with removed_at_ending(target):
    print("ready", flush=True)
    time.sleep(60)
"""
    code, _ = _ended(BEGIN + program, tmp_path / "tree", signal.SIGTERM)
    assert code == 143


def test_an_action_that_hangs_or_fails_does_not_keep_the_process(tmp_path: Path) -> None:
    program = """
from r1trt.lifetime.ending import at_ending
with removed_at_ending(target), at_ending(lambda: 1 / 0), at_ending(lambda: time.sleep(60)):
    print("ready", flush=True)
    time.sleep(60)
"""
    code, _ = _ended(BEGIN + program, tmp_path / "x", signal.SIGTERM)
    assert code == 143


def test_a_signal_behind_the_end_is_the_systems(tmp_path: Path) -> None:
    program = """
end_by_default()
print("ready", flush=True)
time.sleep(60)
"""
    code, errors = _ended(BEGIN + program, tmp_path / "x", signal.SIGTERM)
    assert (code, errors) == (-signal.SIGTERM, "")


def test_nothing_stays_registered_behind_its_block(tmp_path: Path) -> None:
    target = tmp_path / "kept"
    target.touch()
    program = """
with removed_at_ending(target):
    pass
print("ready", flush=True)
time.sleep(60)
"""
    assert _ended(BEGIN + program, target, signal.SIGINT)[0] == 130
    assert target.exists()


def test_blocks_end_with_their_exceptions(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), at_ending(lambda: None), removed_at_ending(tmp_path / "x"):
        raise ZeroDivisionError


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (tmp_path / "link").symlink_to(kept)
    remove(tmp_path / "link")
    assert sorted(tmp_path.iterdir()) == [kept]


def _ended(program: str, target: Path, number: signal.Signals) -> tuple[int, str]:
    command = [sys.executable, "-c", program, str(target)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # The tests themselves may run under nohup.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.05)
        child.send_signal(number)
        _, errors = child.communicate(timeout=30)
    return child.returncode, errors
