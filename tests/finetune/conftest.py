"""What a calibration measures is kept apart from the user's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("R1TRT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
