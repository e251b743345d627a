"""A defect that is planted in a kernel's source, and how the tests are to find it."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.build import Change
from kernels.library import EAGER, LATE

Schedules = tuple[tuple[int, int], ...]
IN_ORDER: Schedules = ((0, LATE),)

# How a planted defect shows.
WRONG = "times the tolerance"
NOT_WRITTEN = "is not written everywhere"
CACHE = "is not as it should be"
PADDING = "padding is not 0"
RACE = "ThreadSanitizer: data race"
OVERFLOW = "heap-buffer-overflow"
OUTSIDE = "AddressSanitizer: heap"  # far from any tensor: whose memory it was, if anyone's, is chance
NOWHERE_AT_ALL = "AddressSanitizer: SEGV"  # a negative position, as unsigned as addresses take it


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One planted defect.

    Attributes:
        name: What is wrong with the kernel now.
        change: The text that makes it so.
        cases: Names of the cases that must find it, every one of them; one where the process ends there.
        report: What the failing process says.
        sanitizer: The build that finds it.
        schedules: The schedules that find it.
        hopper: Whether it is in one of Hopper's own kernels, which then take the cases.
        long: Whether it runs with `--all-cases` alone: it takes minutes, or another one is much like it.
    """

    name: str
    change: Change
    cases: tuple[str, ...]
    report: str = WRONG
    sanitizer: str = "plain"
    schedules: Schedules = IN_ORDER
    hopper: bool = False
    long: bool = False

    def __str__(self) -> str:
        """The name, as a test's."""
        return self.name.replace(" ", "-")


def race(name: str, change: Change, *cases: str, long: bool = False) -> Mutant:
    """A lost barrier: ThreadSanitizer finds it in any order, by copies too if they land at once."""
    return Mutant(
        name=name,
        change=change,
        cases=cases,
        report=RACE,
        sanitizer="tsan",
        schedules=((0, EAGER),),
        long=long,
    )


def overflow(name: str, change: Change, *cases: str) -> Mutant:
    """An access outside a tensor."""
    return Mutant(name=name, change=change, cases=cases, report=OVERFLOW, sanitizer="asan")
