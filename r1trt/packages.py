"""Optional packages, asked for before long work begins that could not end without them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from r1trt.errors import UnavailableError


def require_packages(what: str, wanted: Mapping[str, str]) -> None:
    """Refuse to begin what could not be ended.

    Args:
        what: Is to be done, as the beginning of a sentence: "A search".
        wanted: Extras of this package, by the package that each brings.

    Raises:
        UnavailableError: Some are not installed; names them and the extras.
    """
    missing = [name for name in wanted if find_spec(name) is None]
    if missing:
        raise UnavailableError(
            f"{what} needs packages that are not installed.",
            found=", ".join(missing),
            fix=f"pip install 'r1trt[{','.join(sorted({wanted[name] for name in missing}))}]'",
        )
