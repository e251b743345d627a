"""A search's page: what was found, beside what it was compared with, and the front."""

from __future__ import annotations

from r1trt.page import rendered_page
from r1trt.search.plots import damage_plot, front_plot
from r1trt.search.result import SearchResult
from r1trt.search.space import kinds_counted


def page_of_result(result: SearchResult) -> str:
    """Render the page: one file without anything from elsewhere."""
    plots = {"Front": front_plot(result), "Damage of each choice": damage_plot(result)}
    return rendered_page("r1trt.search", result=result, kinds=kinds_counted, plots=plots)
