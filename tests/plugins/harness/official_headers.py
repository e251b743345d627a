"""NVIDIA's TensorRT headers, from a wheel that carries them; for comparison only."""

from __future__ import annotations

from pathlib import Path

from harness.wheels import Wheel, extracted

WHEEL = Wheel(
    requirement="kernel-lens==2.0.1",
    file="kernel_lens-2.0.1-py3-none-any.whl",
    sha256="07cc714e8b5e7f34b672f7c7fad93febe7c747be5837ba276b1527370134ffe0",
)
FOLDER = "kernel_lens/include/tensorrt"
VERSION = (10, 14)


def official_headers() -> Path:
    """The folder of the headers of TensorRT 10.14."""
    return extracted("headers", [WHEEL], _is_header) / FOLDER


def _is_header(member: str) -> bool:
    return member.startswith(FOLDER) and member.endswith(".h")
