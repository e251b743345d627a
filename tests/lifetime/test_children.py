"""Children, and theirs, end with the process that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from r1trt.lifetime.children import ChildGroup, child_group

# The child starts one of its own, as nvcc starts compilers.
CHILD = "import subprocess, sys; subprocess.run(['sleep', '300'])"
PARENT = f"""
import subprocess, sys, time
from r1trt.lifetime.children import child_group
from r1trt.lifetime.ending import end_on_signals
end_on_signals()
subprocess.Popen([sys.executable, "-c", {CHILD!r}], process_group=child_group())
print(child_group(), flush=True)
time.sleep(300)
"""


# As a thread does that starts compilers and goes on while the process ends; the first child is a zombie then.
LATE_PARENT = """
import os, subprocess
from r1trt.lifetime.children import ChildGroup
group = ChildGroup()
subprocess.Popen(["sleep", "300"], process_group=group.id)
group.kill()
subprocess.Popen(["sleep", "300"], process_group=group.id)
print(group.id, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_grandchildren_end_with_the_process(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        group = int(parent.stdout.readline())
        _wait(lambda: len(members(group)) == 3)
        parent.send_signal(number)
        parent.wait(30)
    _wait(lambda: members(group) == [])


def test_no_child_that_is_started_at_the_end_is_left() -> None:
    # To a file: the late child would keep a pipe open.
    with tempfile.TemporaryFile("w+") as said:
        subprocess.run([sys.executable, "-c", LATE_PARENT], stdout=said, timeout=60, check=True)
        said.seek(0)
        group = int(said.read())
    _wait(lambda: members(group) == [])


def test_leaving_the_block_ends_the_group() -> None:
    with ChildGroup() as group:
        child = subprocess.Popen([sys.executable, "-c", CHILD], process_group=group.id)
        _wait(lambda: len(members(group.id)) == 3)
    assert child.wait(30) == -signal.SIGKILL
    _wait(lambda: members(group.id) == [])


def test_a_process_has_one_group_for_ordinary_children() -> None:
    result = subprocess.run(["ps", "-o", "pgid=", "-p", str(os.getpid())], capture_output=True, check=True)
    assert child_group() == child_group() != int(result.stdout)


def members(group: int) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(process.name))
    return found


def _wait(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
