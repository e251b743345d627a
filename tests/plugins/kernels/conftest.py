"""Fixtures of the kernels' tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The tests below here import one another as `kernels.…`.
sys.path.insert(0, str(Path(__file__).parents[1]))

from kernels.build import build_library
from kernels.library import HostKernels


@pytest.fixture(scope="session")
def built_library() -> HostKernels:
    """All kernels, compiled for the CPU."""
    return HostKernels(build_library())


@pytest.fixture
def library(built_library: HostKernels) -> Iterator[HostKernels]:
    """The kernels, in the plain schedule."""
    built_library.configure()
    yield built_library
    built_library.configure()
