"""Sends SIGTERM and SIGINT to real commands at random moments, and looks at what is left of them.

Each command is run once without a signal; the moments are uniform over that time. A command has to end within
five seconds, with 143 or 130 or by the signal itself, without a traceback; no process of it may be there
afterwards, nor a temporary file, a lock or half a result.

    python scripts/soak_signals.py                               # 600 signals over all commands
    python scripts/soak_signals.py --signals 20 --commands export,generate
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from machine import machine
from safetensors.torch import load_file, save_file

from r1trt.cache import cache_directory
from r1trt.triton_server.shared_memory import SHARED_MEMORY

REPOSITORY = Path(__file__).resolve().parent.parent
PROGRAM = Path(sys.executable).parent / "r1trt"
SIGNALS = (signal.SIGTERM, signal.SIGINT)
LIMIT_S = 5.0
SETTLED_S = 1.0
"""For processes that are killed with their group to be gone from /proc."""
SERVED_S = 2.0
"""How long a server that is ready runs on in its measured run."""
MARK = "R1TRT_SOAK"
PF_EXITING = 0x4
"""Of the kernel's include/linux/sched.h."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of the product.

    Attributes:
        name: In the receipt.
        arguments: OUTPUT stands for where it writes.
        serves: Whether it runs until it is ended.
        changes: Directory that is copied to OUTPUT before.
    """

    name: str
    arguments: tuple[str, ...]
    serves: bool = False
    changes: Path | None = None


@dataclass(kw_only=True)
class Tally:
    """What became of one command's runs."""

    command: str
    measured_s: float
    left_anyway: set[str]
    signals: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    ended_before: int = 0
    before_first_line: int = 0
    slowest_end_s: float = 0.0
    faults: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For the receipt."""
        return {
            **vars(self),
            "codes": dict(self.codes),
            "measured_s": round(self.measured_s, 2),
            "left_anyway": sorted(self.left_anyway),
        }


@dataclass(frozen=True, kw_only=True)
class Place:
    """Folders of one run: all that it may write to."""

    root: Path
    environment: Mapping[str, str]
    mark: str

    @property
    def output(self) -> Path:
        """Where results go."""
        return self.root / "output"

    def leftovers(self, pid: int, anyway: set[str]) -> list[str]:
        """Temporary and hidden files that a process left, and shared memory, whose names tell its number."""
        temporary = [str(path) for path in (self.root / "tmp").iterdir() if path.name not in anyway]
        hidden = [
            str(path)
            for folder in (self.output, self.root / "cache")
            for path in folder.rglob(".*")
            if ".tmp-" in path.name or (folder == self.output and path.name.endswith((".lock", ".old")))
        ]
        return temporary + hidden + [path.name for path in SHARED_MEMORY.glob(f"r1trt_*.{pid}.*")]


@contextmanager
def place(cache: Path | None) -> Iterator[Place]:
    """Fresh folders for one run; the cache is the one given, or fresh as well."""
    with tempfile.TemporaryDirectory(prefix="signals-") as name:
        root = Path(name)
        for folder in ("tmp", "output", "cache"):
            (root / folder).mkdir()
        mark = uuid.uuid4().hex
        environment = {**os.environ, "TMPDIR": str(root / "tmp"), MARK: mark}
        environment["R1TRT_CACHE"] = str(cache or root / "cache")
        yield Place(root=root, environment=environment, mark=mark)


def marked_processes(mark: str) -> list[str]:
    """Command lines of processes that a run started, and that are there."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def start(command: Command, where: Place, stderr: Any) -> subprocess.Popen[str]:
    """Starts a command with its output in `where`."""
    names = ("http", "grpc", "metrics") if command.serves else ()
    options = [f"--{name}-port={free_port()}" for name in names]
    arguments = [text.replace("OUTPUT", str(where.output / "result")) for text in command.arguments]
    if command.changes is not None:
        shutil.copytree(command.changes, where.output / "result")
    return subprocess.Popen(
        [PROGRAM, *arguments, *options],
        env=dict(where.environment),
        cwd=where.root,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        # Python leaves SIGINT ignored where a script in the background started it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measured(command: Command, cache: Path | None) -> tuple[float, set[str]]:
    """Seconds that a command runs without a signal, and what libraries leave in the temporary folder then."""
    with place(cache) as where, (where.root / "errors").open("w+") as errors:
        started = time.monotonic()
        process = start(command, where, errors)
        if command.serves:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(SERVED_S)
            seconds = time.monotonic() - started
            process.terminate()
        process.communicate()
        if not command.serves:
            seconds = time.monotonic() - started
            if process.returncode != 0:
                errors.seek(0)
                raise SystemExit(f"{command.name}: exit code {process.returncode}\n{errors.read()}")
        return seconds, {path.name for path in (where.root / "tmp").iterdir()}


def one_signal(
    command: Command, number: signal.Signals, moment: float, tally: Tally, cache: Path | None
) -> None:
    """Runs a command, sends a signal at a moment, and enters what happened."""
    with place(cache) as where, (where.root / "errors").open("w+") as errors:
        process = start(command, where, errors)
        with process:
            time.sleep(moment)
            if process.poll() is not None:
                tally.ended_before += 1
                return
            sent = time.monotonic()
            process.send_signal(number)
            was_exiting = _is_exiting(process.pid)
            fault = _ended(process, sent, tally)
        if was_exiting and process.returncode == 0:
            tally.ended_before += 1
            return
        errors.seek(0)
        said = errors.read()
        if "KeyboardInterrupt" in said and str(REPOSITORY / "r1trt") not in said:
            tally.before_first_line += 1
            return
        tally.signals += 1
        tally.codes[str(process.returncode)] += 1
        faults = [fault] if fault else _faults(process.returncode, number, said, where)
        faults += [f"is left: {name}" for name in where.leftovers(process.pid, tally.left_anyway)]
        tally.faults += [f"{number.name} after {moment:.3f} s: {text}" for text in faults]


def _ended(process: subprocess.Popen[str], sent: float, tally: Tally) -> str | None:
    try:
        process.communicate(timeout=4 * LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"did not end in {4 * LIMIT_S:.0f} s"
    seconds = time.monotonic() - sent
    tally.slowest_end_s = max(tally.slowest_end_s, round(seconds, 2))
    return f"ended after {seconds:.1f} s" if seconds > LIMIT_S else None


def _is_exiting(pid: int) -> bool:
    """Whether the kernel is already taking a process down: no signal reaches it any more."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0] in "ZX" or bool(int(fields[6]) & PF_EXITING)


def _faults(code: int, number: signal.Signals, said: str, where: Place) -> list[str]:
    faults = []
    if code not in (128 + number, -number):
        faults.append(f"exit code {code}: {said.strip()[-300:]}")
    if "Traceback" in said:
        faults.append(f"a traceback: {said.strip()[-300:]}")
    deadline = time.monotonic() + SETTLED_S
    while (orphans := marked_processes(where.mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return faults + [f"a process is left: {line[:120]}" for line in orphans]


def soak(command: Command, signals: int, seed: int, cache: Path | None) -> Tally:
    """Sends signals to one command, SIGTERM and SIGINT in turn."""
    seconds, left_anyway = measured(command, cache)
    tally = Tally(command=command.name, measured_s=seconds, left_anyway=left_anyway)
    moments = random.Random(f"{seed} {command.name}")
    while tally.signals < signals:
        number = SIGNALS[(tally.signals + tally.ended_before) % len(SIGNALS)]
        one_signal(command, number, moments.uniform(0, tally.measured_s), tally, cache)
    return tally


def commands(checkpoint: Path, folder: Path) -> Iterator[Command]:
    """All commands that write or run for long.

    Args:
        checkpoint: What is exported, built for a CPU, asked and served.
        folder: For what the commands take. Commands that take minutes get one layer of the same width.
    """
    text = ("--prompt", "Once upon a time", "--max-new-tokens", "16", "--temperature", "0")
    export, build = prepared(checkpoint, folder / "whole")
    small_export, small_build = prepared(one_layer(checkpoint, folder / "one-layer"), folder / "small")
    yield Command(name="export", arguments=("export", str(checkpoint), "-o", "OUTPUT"))
    yield Command(name="build-cpu", arguments=("build", str(export), "--arch", "cpu", "-o", "OUTPUT"))
    yield Command(name="build-ada", arguments=("build", str(small_export), "--arch", "ada", "-o", "OUTPUT"))
    yield Command(name="generate", arguments=("generate", str(build), *text))
    yield Command(name="validate", arguments=("validate", "OUTPUT"), changes=small_build)
    yield Command(name="plugins", arguments=("plugins", "build", "--arch", "ada", "-o", "OUTPUT"))
    yield Command(name="serve", arguments=("serve", str(build)), serves=True)


def one_layer(checkpoint: Path, folder: Path) -> Path:
    """The first layer of a checkpoint between its embedding and its head, as a checkpoint."""
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    tensors = load_file(folder / "model.safetensors")
    kept = {
        name: tensor
        for name, tensor in tensors.items()
        if ".layers." not in name or name.startswith("model.layers.0.")
    }
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def prepared(checkpoint: Path, folder: Path) -> tuple[Path, Path]:
    """An export and a build for a CPU of a checkpoint, in `folder`."""
    export, build = folder / "export", folder / "build"
    for arguments in (
        ("export", checkpoint, "-o", export, "--max-seq-len", "256"),
        ("build", export, "--arch", "cpu", "-o", build),
    ):
        subprocess.run([PROGRAM, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)
    return export, build


def main() -> int:
    """Parses the arguments, soaks, and prints or writes what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=REPOSITORY / "engines" / "checkpoints" / "SmolLM2")
    parser.add_argument("--signals", type=int, default=600, help="over all commands")
    parser.add_argument(
        "--commands", default="", help="names, or name:signals, with commas between; default: all alike"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the receipt")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-signals-") as folder:
        offered = {each.name: each for each in commands(given.checkpoint, Path(folder))}
        chosen = _chosen(given.commands or ",".join(offered), given.signals)
        tallies = [_told(offered[name], signals, given.seed) for name, signals in chosen.items()]
    if given.json is not None:
        given.json.write_text(json.dumps(_receipt(given, tallies), indent=1) + "\n")
    return 1 if any(tally.faults for tally in tallies) else 0


def _chosen(text: str, signals: int) -> dict[str, int]:
    """Signals for each command."""
    names = [part.partition(":") for part in text.split(",")]
    return {name: int(number) if number else -(-signals // len(names)) for name, _, number in names}


def _told(command: Command, signals: int, seed: int) -> Tally:
    # Only plugin libraries are made in the cache; the server's own environment is made once for all runs.
    cache = None if command.name == "plugins" else cache_directory()
    tally = soak(command, signals, seed, cache)
    print(json.dumps(tally.as_json()), flush=True)
    return tally


def _receipt(given: argparse.Namespace, tallies: list[Tally]) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "seed": given.seed,
        "checkpoint": given.checkpoint.name,
        "signals": sum(tally.signals for tally in tallies),
        "faults": sum(len(tally.faults) for tally in tallies),
        "commands": [tally.as_json() for tally in tallies],
    }


if __name__ == "__main__":
    sys.exit(main())
