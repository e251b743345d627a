"""A profile as a page: one file without anything from elsewhere."""

from __future__ import annotations

from importlib.resources import files

import jinja2

from r1trt.profile.flame import flame_of_phase
from r1trt.profile.result import Profile
from r1trt.profile.roofline import roofline_of_profile
from r1trt.text import flops_text, size_text


def page_of_profile(profile: Profile) -> str:
    """Renders the page."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"size": size_text, "flops": flops_text}
    source = files("r1trt.profile").joinpath("report.html.jinja").read_text(encoding="utf-8")
    ways = (
        {"by the roofline": False}
        if profile.measured is None
        else {"measured": True, "by the roofline": False}
    )
    flames = [
        {how: flame_of_phase(phase, measured=measured) for how, measured in ways.items()}
        for phase in profile.phases
    ]
    return environment.from_string(source).render(
        profile=profile, flames=flames, roofline=roofline_of_profile(profile)
    )
