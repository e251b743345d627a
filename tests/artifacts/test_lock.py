"""The lock of a directory's one writer."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from r1trt.artifacts.errors import ArtifactError
from r1trt.artifacts.lock import locked_for_writing


def test_a_held_lock_is_refused_or_waited_for(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with ExitStack() as holder:
        holder.enter_context(locked_for_writing(target))
        with pytest.raises(ArtifactError, match="another process"), locked_for_writing(target):
            pass
        with pytest.raises(ArtifactError, match="another process"), locked_for_writing(target, wait_s=0.1):
            pass
        release = threading.Timer(0.2, holder.pop_all().close)
        release.start()
        with locked_for_writing(target, wait_s=60):
            release.join()
    assert not list(tmp_path.iterdir())
