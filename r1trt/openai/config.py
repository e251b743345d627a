"""What the front end is started with."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from r1trt.door.limits import DoorLimits
from r1trt.door.listening import LOOPBACK, is_loopback
from r1trt.errors import ConfigError, UnavailableError
from r1trt.files import text_of_file

_KEYS_BYTES = 1 << 16
_LEAST_CHARACTERS = 16
_PACKAGES = ("starlette", "uvicorn", "tritonclient")


@dataclass(frozen=True, kw_only=True)
class OpenAiConfig:
    """A front end.

    Attributes:
        models: Names of the models that clients may ask; none means all that the server has.
        port: To listen on.
        host: Address to listen on.
        keys: One of which a client has to send; none lets everybody in.
        limits: What may pass.
    """

    models: tuple[str, ...]
    port: int
    host: str = LOOPBACK
    keys: tuple[str, ...] = field(default=(), repr=False)
    limits: DoorLimits = field(default_factory=DoorLimits)

    @property
    def note(self) -> str | None:
        """What its user should know of who may ask; None where that is nothing."""
        if self.keys or is_loopback(self.host):
            return None
        return f"whoever reaches {self.address} may use the model; --api-key-file lets in those with a key"

    @property
    def address(self) -> str:
        """Host and port, as URLs have them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def require_installed() -> None:
    """Raises UnavailableError where a package that the front end runs with is not installed."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise UnavailableError(
            "OpenAI's interface needs packages that are not installed.",
            found=f"no {' and no '.join(missing)}",
            fix="pip install 'r1trt[serving]'",
        )


def keys_from_file(path: Path) -> tuple[str, ...]:
    """Reads the keys that clients may send, one a line; empty lines and those that begin with `#` are none.

    Raises:
        ConfigError: There is none, or one is too short, or could not stand in a header.
    """
    lines = text_of_file(path, limit=_KEYS_BYTES, error=ConfigError, fix="write a key into it").splitlines()
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise ConfigError("The file has no key.", where=path, fix=f"openssl rand -hex 24 > {path}")
    for number, key in enumerate(keys, 1):
        if len(key) < _LEAST_CHARACTERS or not (key.isascii() and key.isprintable()) or " " in key:
            raise ConfigError(
                "This is no key.",
                where=f"{path}, key {number}",
                expected=f"{_LEAST_CHARACTERS} or more ASCII characters without spaces",
                fix=f"openssl rand -hex 24 > {path}",
            )
    return tuple(keys)
