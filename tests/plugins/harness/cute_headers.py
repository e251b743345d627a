"""CuTe's headers, from the wheel that carries CUTLASS; for comparison only."""

from __future__ import annotations

from pathlib import Path

from harness.wheels import Wheel, extracted

WHEEL = Wheel(
    requirement="nvidia-cutlass==4.2.0.0",
    file="nvidia_cutlass-4.2.0.0-py3-none-any.whl",
    sha256="f9599ada45c7bcb6bf53f7d3f0a7d154183e53451c01bfa59eecd37dd4a693f6",
)
FOLDER = "cutlass_library/source/include"


def cute_headers() -> Path:
    """The folder of the headers of CUTLASS 4.2."""
    return extracted("cute", [WHEEL], lambda member: member.startswith(FOLDER)) / FOLDER
