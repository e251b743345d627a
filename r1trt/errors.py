"""The project's exceptions: every message says what, where, found, expected and what to do next."""

from __future__ import annotations

from typing import Self


class R1TrtError(Exception):
    """A failure that a user can act on.

    Args:
        message: One sentence that says what went wrong.
        where: File, tensor, node or line that it was found at.
        found: What was found.
        expected: What was expected in its place.
        fix: What to do next.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        where: object = None,
        found: object = None,
        expected: object = None,
        fix: str | None = None,
    ) -> None:
        self.message = message
        self.details = {
            name: str(value)
            for name, value in (("where", where), ("found", found), ("expected", expected), ("fix", fix))
            if value is not None
        }
        super().__init__(str(self))

    def within(self, place: object) -> Self:
        """The same error, found in a part of `place`."""
        where = ", ".join(filter(None, (str(place), self.details.get("where"))))
        return type(self)(self.message, **{**self.details, "where": where})

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"  {name}: {text}" for name, text in self.details.items())])


class CheckpointError(R1TrtError):
    """A checkpoint directory, one of its files, or a tensor in it is not usable."""


class ConfigError(R1TrtError):
    """A configuration is unknown, incomplete or contradicts itself."""


class UsageError(ConfigError):
    """Options are out of range or contradict each other, whatever the files that they name hold."""

    exit_code = 2


class ExportError(R1TrtError):
    """The ONNX graph cannot be written, or is not what it must be."""


class PlanError(R1TrtError):
    """A precision plan does not fit its model or its architecture."""


class BuildError(R1TrtError):
    """A builder refused the graph, died, or disobeyed the precision plan."""


class ValidationError(R1TrtError):
    """Two stages of the pipeline disagree by more than the plan's thresholds."""


class UnavailableError(R1TrtError):
    """Needs hardware or a library that is not here; `fix` gives the command to continue with."""

    exit_code = 3
