"""A profile as a page: one file without anything from elsewhere."""

from __future__ import annotations

from r1trt.page import rendered_page
from r1trt.profile.flame import flame_of_phase
from r1trt.profile.result import Profile
from r1trt.profile.roofline import roofline_of_profile
from r1trt.text import flops_text, size_text


def page_of_profile(profile: Profile) -> str:
    """Renders the page."""
    ways = (
        {"by the roofline": False}
        if profile.measured is None
        else {"measured": True, "by the roofline": False}
    )
    flames = [
        {how: flame_of_phase(phase, measured=measured) for how, measured in ways.items()}
        for phase in profile.phases
    ]
    return rendered_page(
        "r1trt.profile",
        {"size": size_text, "flops": flops_text},
        profile=profile,
        flames=flames,
        roofline=roofline_of_profile(profile),
    )
