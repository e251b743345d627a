"""Kills the processes of `r1trt serve` by SIGKILL, under load and while it starts, and looks at what follows.

Killed are the model's process, the server and the command itself. Requests in flight have to end within two
seconds with an error, `r1trt serve` has to answer again or to end with a message, and ten seconds after a
command has ended no process of it may be there.

    python scripts/kill_serving.py ENGINE                  # each case 20 times
    python scripts/kill_serving.py ENGINE --times 2
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from machine import machine
from soak_signals import Place, free_port, marked_processes, place

from r1trt.cache import cache_directory
from r1trt.lifetime.children import children_of, name_of
from r1trt.triton_server.process import is_ready

PROGRAM = Path(sys.executable).parent / "r1trt"
KILLED = ("model", "server", "command")
WHEN = ("under load", "while it starts")
ERROR_S, BACK_S, GONE_S, START_S = 2.0, 60.0, 10.0, 4.0
CLIENTS = 4


@dataclass(kw_only=True)
class Case:
    """What became of one case, each time."""

    killed: str
    when: str
    times: int = 0
    came_back: int = 0
    ended_clearly: int = 0
    slowest_error_s: float = 0.0
    slowest_return_s: float = 0.0
    faults: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Running:
    """A command that serves."""

    process: subprocess.Popen[str]
    port: int
    where: Place

    def pid_of(self, which: str) -> int | None:
        """A process of it; None while there is none."""
        if which == "command":
            return self.process.pid
        servers = [pid for pid in children_of(self.process.pid) if name_of(pid) == "tritonserver"]
        if which == "server" or not servers:
            return servers[0] if servers else None
        models = [pid for pid in children_of(servers[0]) if name_of(pid).startswith("triton_python")]
        return models[0] if models else None


@contextmanager
def running(engine: Path) -> Iterator[Running]:
    """`r1trt serve` in folders of its own; at the end it is gone, whatever happened."""
    with place(cache_directory()) as where:
        port = free_port()
        ports = ["--http-port", port, "--grpc-port", free_port(), "--metrics-port", free_port()]
        with (where.root / "errors").open("w") as errors:
            process = subprocess.Popen(
                [PROGRAM, "serve", engine, *map(str, ports)],
                env=dict(where.environment), stdout=subprocess.DEVNULL, stderr=errors, text=True,
            )  # fmt: skip
        try:
            yield Running(process=process, port=port, where=where)
        finally:
            process.kill()
            process.wait()


def wait_until_ready(run: Running, seconds: float) -> bool:
    """Whether it answers in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and run.process.poll() is None:
        if is_ready(run.port):
            return True
        time.sleep(0.05)
    return False


def ask(port: int, model: str, failed: list[tuple[float, str]]) -> None:
    """Asks until a request fails; enters when, and how."""
    body = {"text_input": "Tell me a story", "chat": True, "max_tokens": 400}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v2/models/{model}/generate", json.dumps(body).encode()
    )
    try:
        while True:
            with urllib.request.urlopen(request, timeout=60) as answer:
                answer.read()
    except urllib.error.HTTPError as error:
        said = str(error.code)
    except (OSError, http.client.HTTPException) as error:
        said = type(error).__name__
    failed.append((time.monotonic(), said))


def under_load(run: Running, case: Case, model: str) -> None:
    """Kills while requests are under way."""
    if not wait_until_ready(run, BACK_S):
        case.faults.append("it was not ready")
        return
    failed: list[tuple[float, str]] = []
    clients = [threading.Thread(target=ask, args=(run.port, model, failed)) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    time.sleep(random.uniform(0.5, 1.5))
    pid = run.pid_of(case.killed)
    assert pid is not None
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    for client in clients:
        client.join()
    late = max(moment - killed for moment, _ in failed)
    case.slowest_error_s = max(case.slowest_error_s, round(late, 2))
    if late > ERROR_S or any(moment < killed for moment, _ in failed):
        case.faults.append(f"requests: {[(round(moment - killed, 2), said) for moment, said in failed]}")
    _afterwards(run, case, killed)


def while_it_starts(run: Running, case: Case, model: str) -> None:
    """Kills at some moment of its start."""
    time.sleep(random.uniform(0.0, START_S))
    while (pid := run.pid_of(case.killed)) is None and run.process.poll() is None:
        time.sleep(0.01)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    _afterwards(run, case, time.monotonic())


def _afterwards(run: Running, case: Case, killed: float) -> None:
    if case.killed != "command" and wait_until_ready(run, BACK_S):
        case.came_back += 1
        case.slowest_return_s = max(case.slowest_return_s, round(time.monotonic() - killed, 2))
        run.process.terminate()
    try:
        run.process.wait(GONE_S)
    except subprocess.TimeoutExpired:
        case.faults.append("it neither came back nor ended")
        return
    if run.process.returncode == 1:
        said = (run.where.root / "errors").read_text()
        case.ended_clearly += "error:" in said and "Traceback" not in said
        if "error:" not in said or "Traceback" in said:
            case.faults.append(f"it ended without a clear word: {said[-200:]}")
    deadline = time.monotonic() + GONE_S
    while (left := marked_processes(run.where.mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    case.faults += [f"a process is left: {line[:100]}" for line in left]


def tried(engine: Path, killed: str, when: str, times: int) -> Case:
    """One case, so many times."""
    case = Case(killed=killed, when=when)
    model = json.loads((engine / "manifest.json").read_text())["source"]["model_name"]
    for _ in range(times):
        with running(engine) as run:
            (under_load if when == "under load" else while_it_starts)(run, case, model)
        case.times += 1
    print(json.dumps(vars(case)), flush=True)
    return case


def main() -> int:
    """Parses the arguments, and prints or writes what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("engine", type=Path, help="a build for a CPU")
    parser.add_argument("--times", type=int, default=20, help="each case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the receipt")
    given = parser.parse_args()
    random.seed(given.seed)
    cases = [tried(given.engine, killed, when, given.times) for killed in KILLED for when in WHEN]
    if given.json is not None:
        given.json.write_text(json.dumps(_receipt(given, cases), indent=1) + "\n")
    return 1 if any(case.faults for case in cases) else 0


def _receipt(given: argparse.Namespace, cases: list[Case]) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "engine": given.engine.name,
        "seed": given.seed,
        "cases": [vars(case) for case in cases],
    }


if __name__ == "__main__":
    sys.exit(main())
