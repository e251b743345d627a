"""Memory moves to huge pages with its contents, in time, and only where it is large and full."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from r1trt.runtime import huge_pages
from r1trt.runtime.huge_pages import Mapping, anonymous_mappings, use_huge_pages

MB = 1 << 20
SMAPS = """\
7f0000000000-7f0004000000 rw-p 00000000 00:00 0
Size:              65536 kB
Rss:               65000 kB
AnonHugePages:         0 kB
VmFlags: rd wr mr mw me ac
7f0010000000-7f0014000000 rw-p 00000000 08:01 77 /weights (deleted)
Rss:               65536 kB
7f0020000000-7f0024000000 r--p 00000000 00:00 0
Rss:               65536 kB
7f0030000000-7f0034000000 rw-p 00000000 00:00 0                 [heap]
Rss:                 128 kB
"""


def test_only_written_mappings_without_a_name_are_read() -> None:
    found = list(anonymous_mappings(SMAPS.splitlines()))
    assert found == [
        Mapping(start=0x7F0000000000, end=0x7F0004000000, resident=65000 * 1024),
        Mapping(start=0x7F0030000000, end=0x7F0034000000, resident=128 * 1024),
    ]
    assert [mapping.is_worth_it for mapping in found] == [True, False]


@pytest.mark.parametrize(
    ("size", "resident", "huge", "worth"),
    [(64, 64, 0, True), (64, 50, 0, False), (2, 2, 0, False), (64, 64, 48, False), (64, 64, 16, True)],
)
def test_large_full_memory_in_small_pages_is_worth_it(
    size: int, resident: int, huge: int, worth: bool
) -> None:
    mapping = Mapping(start=0, end=size * MB, resident=resident * MB, huge=huge * MB)
    assert mapping.is_worth_it == worth


def test_the_contents_stay() -> None:
    block = mmap.mmap(-1, 64 * MB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    values = np.frombuffer(block, np.uint8)
    expected = np.random.default_rng(0).integers(256, size=values.size, dtype=np.uint8)
    block[:] = expected.tobytes()
    use_huge_pages(seconds=30.0)  # how much the kernel has to give is its own affair
    np.testing.assert_array_equal(values, expected)
    del values


def test_no_time_moves_nothing() -> None:
    assert use_huge_pages(seconds=0.0) == 0


def test_a_system_without_the_list_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "MAPPINGS", tmp_path / "smaps")
    assert use_huge_pages(seconds=1.0) == 0
