"""Where results of long work are kept."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from unittest.mock import Mock

import pytest

from r1trt.cache import CACHE_VARIABLE, cache_directory, forget_oldest
from r1trt.errors import ConfigError
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


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", CACHE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", Mock(side_effect=KeyError("uid not found")))
    with pytest.raises(ConfigError, match="no home directory") as caught:
        cache_directory()
    assert CACHE_VARIABLE in caught.value.details["fix"]


def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    for age, name in enumerate(["new", "middle", "old"]):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"x" * 10)
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    forget_oldest([*tmp_path.iterdir(), tmp_path / "gone"], limit=20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["middle", "new"]
