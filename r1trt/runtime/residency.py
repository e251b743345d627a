"""Which parts of a model are in memory: as many as fit stay, the others take turns.

Calls run the parts in a circle. Of those that do not stay, the next one is loaded while this one runs where
the two largest fit beside what stays; else one is there at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from r1trt.errors import UnavailableError
from r1trt.text import size_text


class Loadable(Protocol):
    """What is loaded and freed."""

    def load(self) -> None:
        """Loads it; nothing where it is there."""

    def unload(self) -> None:
        """Frees it."""


@dataclass(frozen=True, kw_only=True)
class Residency:
    """What is in memory when.

    Attributes:
        staying: Parts that are loaded once, by number.
        at_a_time: How many of the others are there together: 2 where the next one is loaded ahead.
    """

    staying: frozenset[int]
    at_a_time: int

    def bytes(self, sizes: Sequence[int]) -> int:
        """Most that is in memory at a time, of parts of these sizes."""
        turning = sorted(
            (size for index, size in enumerate(sizes) if index not in self.staying), reverse=True
        )
        return sum(sizes[index] for index in self.staying) + sum(turning[: self.at_a_time])


def residency(sizes: Sequence[int], room: int) -> Residency:
    """The most that fits.

    Args:
        sizes: Bytes of the parts, in the order that they run.
        room: Bytes that there are for them.

    Raises:
        UnavailableError: Not even the largest part alone fits.
    """
    if max(sizes) > room:
        raise UnavailableError(
            "The largest part of this model does not fit into memory.",
            where=f"part {sizes.index(max(sizes))}",
            found=f"{size_text(max(room, 0))} for parts, beside the KV cache",
            expected=f"at least {size_text(max(sizes))}",
            fix="build with more --parts, or run fewer rows or on a machine with more memory",
        )
    for count in range(len(sizes), -1, -1):
        found = Residency(staying=frozenset(range(count)), at_a_time=2)
        if found.bytes(sizes) <= room:
            return found
    return Residency(staying=frozenset(), at_a_time=1)


class Turns:
    """Loads and frees parts as calls go through them.

    Args:
        parts: In the order that they run; those that are loaded already count as such.
        residency: What is in memory when.
    """

    def __init__(self, parts: Sequence[Loadable], residency: Residency) -> None:
        self._parts = parts
        self._turning = [index for index in range(len(parts)) if index not in residency.staying]
        self._ahead = residency.at_a_time > 1 and len(self._turning) > 1
        self._loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="next-part")
        self._loading: dict[int, Future[None]] = {}

    @contextmanager
    def taken(self, index: int) -> Iterator[None]:
        """Holds a part for the time of a `with` block, while the next one is loaded.

        Raises:
            SessionError: The part cannot be loaded.
        """
        self._begin(index)
        try:
            yield
        except BaseException:
            self._drop_loaded()
            raise
        finally:
            if not self.stays(index):
                self._parts[index].unload()

    def _begin(self, index: int) -> None:
        loading = self._loading.pop(index, None)
        if loading is None:
            self._parts[index].load()
        else:
            loading.result()
        if self._ahead and not self.stays(index):
            self._load_ahead(index)

    def _drop_loaded(self) -> None:
        """Frees what was loaded ahead: behind a call that failed the next one begins with the first part."""
        for index, loading in self._loading.items():
            loading.exception()
            self._parts[index].unload()
        self._loading.clear()

    def stays(self, index: int) -> bool:
        """Whether a part is loaded once."""
        return index not in self._turning

    def close(self) -> None:
        """Waits for what is being loaded."""
        self._loader.shutdown(wait=True)
        self._loading.clear()

    def _load_ahead(self, index: int) -> None:
        place = self._turning.index(index) + 1
        following = self._turning[place % len(self._turning)]
        if following not in self._loading:
            self._loading[following] = self._loader.submit(self._parts[following].load)
