"""Machine code of compiled kernels, read with NVIDIA's cuobjdump."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from r1trt.errors import BuildError, UnavailableError
from r1trt.lifetime.children import child_group

PACKAGE = "nvidia-cuda-cuobjdump"
_TIMEOUT_S = 300
_FUNCTION = re.compile(r"^\s*Function : (\S+)$", re.MULTILINE)
_INSTRUCTION = re.compile(r"^\s+/\*(?P<address>[0-9a-f]{4,})\*/\s+(?P<text>[^;]*?)\s*;", re.MULTILINE)
_GUARD = re.compile(r"^@!?U?P[T\d]+\s+")
_TARGET = re.compile(r"\bBRA\b.*0x(?P<address>[0-9a-f]+)")


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction.

    Attributes:
        address: In the function.
        text: As cuobjdump writes it, without a guard.
    """

    address: int
    text: str

    @property
    def name(self) -> str:
        """For instance "QMMA.16832.F32.E4M3.E4M3"."""
        return self.text.split()[0]


def cuobjdump() -> Path:
    """The program: beside nvcc, on the path, or from PyPI.

    Raises:
        UnavailableError: It is not here.
    """
    if found := shutil.which("cuobjdump"):
        return Path(found)
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "cuobjdump":
            return Path(str(file.locate()))
    raise UnavailableError("cuobjdump is not installed.", fix=f"pip install {PACKAGE}")


def machine_code(file: Path) -> dict[str, list[Instruction]]:
    """The instructions of each function in a cubin, an object or a library.

    Args:
        file: What nvcc made.

    Raises:
        UnavailableError: cuobjdump is not here.
        BuildError: It reads no code in the file.
    """
    done = subprocess.run(
        [cuobjdump(), "-sass", file], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
        process_group=child_group(),
    )  # fmt: skip
    if done.returncode != 0:
        raise BuildError("cuobjdump reads no machine code.", where=file, found=done.stderr.strip()[:500])
    starts = list(_FUNCTION.finditer(done.stdout))
    ends = [*(start.start() for start in starts), len(done.stdout)][1:]
    return {
        start[1]: _instructions(done.stdout[start.end() : end])
        for start, end in zip(starts, ends, strict=True)
    }


def loops(code: list[Instruction]) -> list[list[Instruction]]:
    """The instructions of each loop: from where a branch leads back to, to that branch."""
    found = []
    for index, instruction in enumerate(code):
        branch = _TARGET.search(instruction.text)
        if branch and int(branch["address"], 16) < instruction.address:
            begin = next(i for i, other in enumerate(code) if other.address == int(branch["address"], 16))
            found.append(code[begin : index + 1])
    return found


def _instructions(text: str) -> list[Instruction]:
    return [
        Instruction(address=int(match["address"], 16), text=_GUARD.sub("", match["text"]))
        for match in _INSTRUCTION.finditer(text)
    ]
