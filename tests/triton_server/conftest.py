"""Engines for the real server, and the server itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cpu_engines import cpu_engine, tiny_engine

from r1trt.cache import CACHE_VARIABLE
from r1trt.triton_server.environment import ServingEnvironment, serving_environment

__all__ = ["tiny_engine"]


@pytest.fixture(scope="session")
def smollm2_engine(smollm2_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cpu_engine(smollm2_dir, tmp_path_factory.mktemp("smollm2"), max_seq_len=512, rows=8)


@pytest.fixture(scope="session")
def environment(pytestconfig: pytest.Config) -> Iterator[ServingEnvironment]:
    """The bundled server, installed once for all workers and later runs."""
    assert pytestconfig.cache is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(pytestconfig.cache.mkdir("serving") / "r1trt"))
        yield serving_environment()
