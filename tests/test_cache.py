"""Where results of long work are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from r1trt.cache import CACHE_VARIABLE, cache_directory
from r1trt.plugin_tools.library import library_cache


def test_the_most_specific_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    assert cache_directory() == tmp_path / "home" / ".cache" / "r1trt"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "r1trt"
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "own"))
    assert cache_directory() == tmp_path / "own"
    assert library_cache() == tmp_path / "own" / "plugins"
