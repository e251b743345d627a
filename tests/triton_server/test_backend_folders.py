"""What Triton's Python backend leaves in /tmp where it is killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from r1trt.lifetime.children import name_of
from r1trt.triton_server import backend_folders
from r1trt.triton_server.backend_folders import remove_backend_folders


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(backend_folders, "_PARENT", folder)
    # Servers of other tests run beside this one.
    monkeypatch.setattr(backend_folders, "_SERVER", "standinserver")
    return folder


def test_new_and_empty_ones_go(parent: Path) -> None:
    for name in ("python_env_old", "python_env_new", "python_env_full", "other"):
        (parent / name).mkdir()
    (parent / "python_env_full" / "file").touch()
    remove_backend_folders({parent / "python_env_old"}, os.getpid())
    assert sorted(path.name for path in parent.iterdir()) == ["other", "python_env_full", "python_env_old"]


def test_where_another_server_runs_all_are_left(parent: Path, tmp_path: Path) -> None:
    (parent / "python_env_new").mkdir()
    program = shutil.copy("/bin/sleep", tmp_path / "standinserver")
    with subprocess.Popen([program, "60"]) as server:
        try:
            # Popen returns when exec closes its pipe, which is before the process gets its name.
            while name_of(server.pid) != "standinserver":
                time.sleep(0.01)
            remove_backend_folders(frozenset(), os.getpid())
            assert (parent / "python_env_new").exists()
            remove_backend_folders(frozenset(), server.pid)
            assert not (parent / "python_env_new").exists()
        finally:
            server.kill()
