"""Refuses, with figures, what this machine cannot do, before hours are spent on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from r1trt.artifacts.disk import disk_full
from r1trt.errors import UnavailableError
from r1trt.estimate.steps import Step
from r1trt.machine import Memory, free_disk, memory_of_machine
from r1trt.text import size_text


def require_room(step: Step, directory: Path) -> None:
    """Refuses a step that cannot end on this machine.

    Args:
        step: What is to be done.
        directory: Where its result goes; it need not exist.

    Raises:
        DiskFullError: There is too little room on the disk.
        UnavailableError: The whole machine has too little memory.
    """
    require_memory(step)
    if free_disk(directory) < step.disk:
        raise disk_full(directory, f"{step.disk} bytes for {step.name}")


def require_memory(step: Step) -> None:
    """Refuses a step that needs more memory than the machine has in all.

    Raises:
        UnavailableError: With what it needs and what is there.
    """
    memory = memory_of_machine()
    if memory.total < step.least_memory:
        raise UnavailableError(
            "This machine has too little memory for this step.",
            where=step.name,
            found=f"{size_text(memory.total)} in all, {size_text(memory.available)} of it available",
            expected=f"{size_text(step.memory)} at its peak, and at least {size_text(step.least_memory)}",
            fix="run it on a machine with more memory, or with a narrower precision; "
            "`r1trt estimate` lists what each takes",
        )


def obstacles(step: Step, memory: Memory, free: int) -> Iterator[str]:
    """What this machine lacks for a step, in words; nothing where it can do it."""
    if memory.total < step.least_memory:
        yield f"memory: {size_text(memory.total)} is less than {size_text(step.least_memory)}"
    if free < step.disk:
        yield f"disk: {size_text(free)} is less than {size_text(step.disk)}"
