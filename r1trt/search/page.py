"""A search's page: what was found, beside what it was compared with, and the front."""

from __future__ import annotations

from importlib.resources import files

import jinja2

from r1trt.search.plots import damage_plot, front_plot
from r1trt.search.result import SearchResult
from r1trt.search.space import kinds_counted


def page_of_result(result: SearchResult) -> str:
    """Render the page: one file without anything from elsewhere."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    source = files("r1trt.search").joinpath("report.html.jinja").read_text(encoding="utf-8")
    plots = {"Front": front_plot(result), "Damage of each choice": damage_plot(result)}
    return environment.from_string(source).render(result=result, kinds=kinds_counted, plots=plots)
