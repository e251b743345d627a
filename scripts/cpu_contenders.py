"""The engines that `benchmark_cpu.py` compares, each in a process of its own that does what it is told."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llama_build import llama_worker, quantized_gguf

from r1trt.arch import BuildPrecision
from r1trt.build.config import BuildConfig
from r1trt.build.pipeline import build_engine
from r1trt.export.export import ExportConfig, export_checkpoint

SCRIPTS = Path(__file__).parent
PRECISIONS: tuple[BuildPrecision, ...] = ("fp32", "int8", "int4")
LLAMA_KINDS = {"F32": 32, "Q8_0": 8, "Q4_0": 4, "Q4_K_M": 4}
GENAI_KINDS = {"fp32": 32, "int4": 4}
VLLM_KINDS = {"float32": 32, "bfloat16": 16}
BITS = {"fp32": 32, "int8": 8, "int4": 4}
Wanted = Callable[[str], bool]
"""Whether a contender of that name takes part; what does not is not made either."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One engine with one type of weights.

    Attributes:
        name: What the table calls it.
        ours: Whether it is the one whose ratios are wanted.
        bits: Of a weight, nominally; peers of as many are compared.
        command: Starts its worker; threads, rows and capacity are appended.
        bytes: Of its files.
        reason: Why it cannot run; empty if it can.
    """

    name: str
    ours: bool
    bits: int
    command: tuple[str, ...]
    bytes: int = 0
    reason: str = ""


class Worker:
    """A contender's process.

    Raises:
        RuntimeError: It ended; says which one, and its last words.
    """

    def __init__(self, contender: Contender, process: subprocess.Popen[str], log: Path) -> None:
        self.contender = contender
        self._process, self._log = process, log
        self.load_seconds = self._answer()

    def ask(self, *command: object) -> float:
        """Tells it what to do; returns its seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, command)) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def peak_bytes(self) -> int:
        """Most resident memory so far, mapped files included."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    def _answer(self) -> float:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("= "):
                return float(line.split()[1])
        words = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise RuntimeError(f"{self.contender.name}: {words[-1] if words else 'ended without a word'}")


@contextmanager
def worker(contender: Contender, work: Path, *, threads: int, rows: int, capacity: int) -> Iterator[Worker]:
    """Starts a contender, and ends it."""
    log = work / f"{contender.name.replace(' ', '-')}.log"
    command = [*contender.command, *map(str, (threads, rows, capacity))]
    path = os.pathsep.join(filter(None, [str(SCRIPTS.parent), os.environ.get("PYTHONPATH")]))
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
    try:
        yield Worker(contender, process, log)
    finally:
        process.kill()
        process.wait(30)


def our_contenders(
    checkpoint: Path, work: Path, wanted: Wanted, *, rows: int, capacity: int, compensate: bool | None = None
) -> Iterator[Contender]:
    """Exports and builds what is not there yet."""
    export = work / "export"
    for precision in PRECISIONS:
        name = f"r1trt {precision}"
        if not wanted(name):
            continue
        engine = work / f"cpu-{precision}"
        if not engine.is_dir():
            if not export.is_dir():
                config = ExportConfig(
                    checkpoint=checkpoint, output=export, max_seq_len=capacity, last_token_logits=True
                )
                export_checkpoint(config)
            build_engine(
                BuildConfig(
                    model=export,
                    arch="cpu",
                    precision=precision,
                    max_batch_size=rows,
                    output=engine,
                    compensate=compensate,
                )
            )
        command = (sys.executable, str(SCRIPTS / "r1trt_worker.py"), str(engine))
        size = _bytes(engine, "*.safetensors", "*.onnx")
        yield Contender(name=name, ours=True, bits=BITS[precision], command=command, bytes=size)


def llama_contenders(directory: Path, checkpoint: Path, work: Path, wanted: Wanted) -> Iterator[Contender]:
    """Builds llama.cpp and its files, what is not there yet."""
    program = llama_worker(directory)
    for kind, bits in LLAMA_KINDS.items():
        if not wanted(f"llama.cpp {kind}"):
            continue
        path = quantized_gguf(directory, checkpoint, work, kind)
        command, size = (str(program), str(path)), path.stat().st_size
        yield Contender(name=f"llama.cpp {kind}", ours=False, bits=bits, command=command, bytes=size)


def genai_contenders(python: Path, checkpoint: Path, work: Path, wanted: Wanted) -> Iterator[Contender]:
    """Makes the models of ONNX Runtime GenAI's model builder, what is not there yet."""
    for kind, bits in GENAI_KINDS.items():
        folder, name = work / f"genai-{kind}", f"ONNX Runtime GenAI {kind}"
        if not wanted(name):
            continue
        reason = ""
        if not (folder / "genai_config.json").exists():
            reason = _run_builder(python, checkpoint, folder, kind)
        command = (str(python), str(SCRIPTS / "genai_worker.py"), str(folder))
        size = _bytes(folder, "*.onnx", "*.data")
        yield Contender(name=name, ours=False, bits=bits, command=command, bytes=size, reason=reason)


def vllm_contenders(python: Path, checkpoint: Path, wanted: Wanted) -> Iterator[Contender]:
    """The CPU platform of vLLM, which reads the checkpoint itself."""
    size = _bytes(checkpoint, "*.safetensors")
    for kind, bits in VLLM_KINDS.items():
        name = f"vLLM {kind}"
        command = (str(python), str(SCRIPTS / "vllm_worker.py"), str(checkpoint), kind)
        if wanted(name):
            yield Contender(name=name, ours=False, bits=bits, command=command, bytes=size)


def _run_builder(python: Path, checkpoint: Path, folder: Path, kind: str) -> str:
    """Returns why it failed, or nothing."""
    builder = [str(python), "-m", "onnxruntime_genai.models.builder", "-i", str(checkpoint)]
    places = ["-o", str(folder), "-c", str(folder.with_name("genai-cache")), "-p", kind, "-e", "cpu"]
    ran = subprocess.run([*builder, *places], capture_output=True, text=True, check=False)
    return (ran.stderr.strip().splitlines() or ["no word"])[-1] if ran.returncode else ""


def _bytes(folder: Path, *patterns: str) -> int:
    return sum(path.stat().st_size for pattern in patterns for path in folder.glob(pattern))
