"""Whether an engine stores its weights as narrow as they were given: a builder may widen them in silence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from r1trt.errors import BuildError
from r1trt.text import listing, size_text

KERNEL_BYTES = 64 << 20
"""What code and tables may take; they are 32 MB of an engine of SmolLM2, whatever its types."""
_MOST = 1.5
"""Times the bytes of the weights; widening from 8 bits doubles them."""


def require_narrow_engines(engines: Mapping[int, Path], weights: Path) -> None:
    """Refuse engines that are much larger than the weights that were given.

    Args:
        engines: Serialized engines by compute capability.
        weights: The build's weights, each as the plan types it.

    Raises:
        BuildError: Names the engines with their sizes.
    """
    given = weights.stat().st_size
    limit = int(_MOST * given) + KERNEL_BYTES
    found = {path.name: path.stat().st_size for path in engines.values()}
    wide = [f"{name}: {size_text(size)}" for name, size in found.items() if size > limit]
    if wide:
        raise BuildError(
            "The builder stores weights wider than they were given.",
            found=listing(wide),
            expected=f"at most {size_text(limit)}; the weights are {size_text(given)}",
            fix="give quantized layers bf16 in the plan, or build with --allow-fake-fp8",
        )
