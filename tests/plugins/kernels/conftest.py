"""Fixtures of the kernels' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
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
