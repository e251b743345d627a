"""Reports as pages: a template of this package with what it is to show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import jinja2

TEMPLATE = "report.html.jinja"
_NONE: Mapping[str, Callable[..., str]] = MappingProxyType({})


def rendered_page(package: str, filters: Mapping[str, Callable[..., str]] = _NONE, **values: Any) -> str:
    """Render a package's report: one file without anything from elsewhere; all text is escaped.

    Args:
        package: Which has the template.
        filters: By their names in the template, beside Jinja's.
        values: By their names in the template.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= filters
    source = files(package).joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(source).render(**values)
