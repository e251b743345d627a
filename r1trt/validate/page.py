"""The result of a validation as a page, and both put beside the artifact."""

from __future__ import annotations

from r1trt.artifacts.validation import ValidationDirectory, write_validation
from r1trt.page import rendered_page
from r1trt.validate.plots import plots_from_report
from r1trt.validate.report import ValidationReport
from r1trt.validate.stages import TITLES


def html_from_report(report: ValidationReport) -> str:
    """Render the page: one file without anything from elsewhere."""
    return rendered_page("r1trt.validate", report=report, titles=TITLES, plots=plots_from_report(report))


def save_report(report: ValidationReport) -> ValidationDirectory:
    """Write the figures and the page beside the artifact's manifest, which stays as it is.

    Returns:
        Names of the files.
    """
    page = html_from_report(report)
    return write_validation(report.directory, report.summary(), report.to_dict(), page)
