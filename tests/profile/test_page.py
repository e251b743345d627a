"""The page: one file, pictures that say what they show, and nothing that a hostile name could become."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from r1trt.profile.options import BREAKDOWNS, METRICS, Breakdown, Metric
from r1trt.profile.page import page_of_profile
from r1trt.profile.profile import ProfileConfig, profile_model

SVG = "{http://www.w3.org/2000/svg}"


def pictures(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def widths(picture: ElementTree.Element) -> Iterator[tuple[float, str]]:
    for box in picture.iter(f"{SVG}rect"):
        yield float(box.attrib["width"]), str(box.findtext(f"{SVG}title"))


@pytest.mark.parametrize("breakdown", BREAKDOWNS)
def test_the_page_stands_alone(breakdown: Breakdown) -> None:
    page = page_of_profile(profile_model(ProfileConfig(model="v2-lite", breakdown=breakdown)))
    assert set(re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\')>\s]+)', page)) == set()
    assert set(re.findall(r"https?://[^\"'\s<]+", page)) == {"http://www.w3.org/2000/svg"}
    assert len(pictures(page)) == 3 and "<script" not in page


def test_a_flames_boxes_are_as_wide_as_their_times() -> None:
    profile = profile_model(ProfileConfig(model="r1-70b"))
    flames = pictures(page_of_profile(profile))[:2]
    for phase, flame in zip(profile.phases, flames, strict=True):
        boxes = {title.partition(":")[0]: width for width, title in widths(flame)}
        whole = boxes[phase.name]
        for row in phase.rows:
            share = row.seconds / phase.total.seconds
            if share > 0.01:
                assert boxes[row.name] / whole == pytest.approx(share, abs=0.001), row.name


def test_every_row_with_arithmetic_has_a_dot_under_the_roof() -> None:
    profile = profile_model(ProfileConfig(model="r1-70b"))
    (picture,) = pictures(page_of_profile(profile))[2:]
    titles = [str(dot.findtext(f"{SVG}title")) for dot in picture.iter(f"{SVG}circle")]
    for phase in profile.phases:
        for row in phase.rows:
            assert any(
                title.startswith(f"{phase.name}, {row.label}, by the roofline") for title in titles
            ) == bool(row.flops)
            if row.flops:
                roof = min(row.intensity or 0, 989e12 * 0.8 / (3.35e12 * 0.9)) * 3.35e12 * 0.9
                assert row.flops / row.seconds <= roof * (1 + 1e-9), row.name


@pytest.mark.parametrize("metrics", [("latency",), ("flops",), ("memory",)])
def test_a_page_of_some_metrics(metrics: tuple[Metric, ...]) -> None:
    assert set(metrics) < set(METRICS)
    assert "Roofline" in page_of_profile(profile_model(ProfileConfig(model="smollm2-135m", metrics=metrics)))


def test_names_are_text(tmp_path: Path) -> None:
    from tiny_checkpoints import write_llama

    hostile = write_llama(tmp_path / "<script>alert(1)<")
    page = page_of_profile(profile_model(ProfileConfig(model=str(hostile), device="cpu")))
    assert "<script>" not in page and "&lt;script&gt;" in page
