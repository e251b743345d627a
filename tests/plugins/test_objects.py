"""The compile driver: what decides an object, and that each is made once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from r1trt.errors import BuildError
from r1trt.plugin_tools import toolchain_from_machine
from r1trt.plugin_tools.compilers import Compilers
from r1trt.plugin_tools.objects import UNUSED_AFTER_S, Compilation, ObjectCache, included_files


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ObjectCache]:
    with Compilers(2) as compilers:
        yield ObjectCache(tmp_path / "objects", compilers)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    (folder / "common").mkdir(parents=True)
    (folder / "common" / "inner.h").write_text("inline int inner() { return 1; }\n")
    (folder / "outer.h").write_text('#include "common/inner.h"\n')
    (folder / "unrelated.h").write_text("#error\n")
    (folder / "one.cpp").write_text('#include <cstdint>\n#include "outer.h"\n#pragma message("hello")\n')
    return folder


def compilation(folder: Path, *flags: str) -> Compilation:
    chain = toolchain_from_machine()
    return Compilation(
        source=folder / "one.cpp", compiler=chain.cxx, version=chain.cxx_version, flags=("-O0", *flags)
    )


def compiled(cache: ObjectCache, *items: Compilation) -> int:
    """How many compilers were started."""
    started: list[Path] = []
    results = list(cache.objects(items, started.append))
    assert all(result.path.is_file() and "hello" in result.printed for result in results)
    return len(started)


def test_an_object_is_made_once(cache: ObjectCache, sources: Path) -> None:
    item = compilation(sources)
    assert compiled(cache, item, item, item) == 1
    assert compiled(cache, item) == 0
    assert compiled(cache, compilation(sources, "-DX")) == 1


def test_texts_decide_and_places_do_not(cache: ObjectCache, sources: Path, tmp_path: Path) -> None:
    assert compiled(cache, compilation(sources)) == 1
    shutil.copytree(sources, tmp_path / "elsewhere")
    (sources / "unrelated.h").write_text("changed\n")
    assert compiled(cache, compilation(tmp_path / "elsewhere"), compilation(sources)) == 0
    (sources / "common" / "inner.h").write_text("inline int inner() { return 2; }\n")
    assert compiled(cache, compilation(sources)) == 1


def test_includes_are_followed_to_their_ends(sources: Path) -> None:
    names = [path.name for path in included_files(sources / "one.cpp", ())]
    assert names == ["outer.h", "inner.h"]


def test_what_does_not_compile_leaves_nothing(cache: ObjectCache, sources: Path) -> None:
    (sources / "one.cpp").write_text("int broken = nothing_of_that_name;\n")
    with pytest.raises(BuildError, match="does not compile") as caught:
        list(cache.objects([compilation(sources)]))
    assert "nothing_of_that_name" in caught.value.details["found"]
    assert [path for path in cache.folder.iterdir() if path.suffix != ".lock"] == []


def test_a_library_is_linked_once(cache: ObjectCache, sources: Path) -> None:
    [item] = cache.objects([compilation(sources, "-fPIC")])
    command = [str(toolchain_from_machine().cxx), "-shared"]
    first = cache.linked("library", [item.path], command)
    before = first.stat().st_ino
    assert cache.linked("library", [item.path], command) == first and first.stat().st_ino == before
    script = sources / "exports.map"
    script.write_text("{ local: *; };\n")
    with_script = [*command, f"-Wl,--version-script={script}"]
    other = cache.linked("library", [item.path], with_script, inputs=[script])
    script.write_text("{ global: inner; };\n")
    assert len({first, other, cache.linked("library", [item.path], with_script, inputs=[script])}) == 3


def test_what_nobody_asks_for_is_removed(cache: ObjectCache, sources: Path) -> None:
    kept, unused = cache.objects([compilation(sources), compilation(sources, "-DX")])
    old = unused.path.stat().st_mtime - UNUSED_AFTER_S - 60
    for path in (unused.path, unused.path.with_suffix(".log")):
        os.utime(path, (old, old))
    ObjectCache(cache.folder, cache.compilers)
    assert kept.path.is_file() and not unused.path.exists()
