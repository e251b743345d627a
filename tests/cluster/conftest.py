"""A model in three parts, and three nodes of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_requests import PROMPTS
from cpu_engines import cpu_engine
from local_nodes import local_nodes
from scripts_under_test import REPOSITORY

from r1trt.build.config import BuildConfig
from r1trt.build.pipeline import build_engine

ROWS, CAPACITY = len(PROMPTS), 256


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cluster")
    checkpoint = REPOSITORY / "tests" / "data" / "r1_asa_bytes"  # trained: what it says depends on its caches
    return cpu_engine(checkpoint, directory, max_seq_len=CAPACITY, rows=ROWS)


@pytest.fixture(scope="session")
def parts(whole: Path) -> Path:
    return build_engine(
        BuildConfig(
            model=whole.parent / "export",
            arch="cpu",
            precision="fp32",
            max_batch_size=ROWS,
            parts=3,
            output=whole.parent / "parts",
        )
    )


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    with local_nodes(3) as found:
        yield found
