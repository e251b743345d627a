"""The project's TensorRT declarations against NVIDIA's headers, slot by slot."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.compile import probe_output
from harness.official_headers import VERSION, official_headers

ABI = Path(__file__).parent / "abi"

# What logger.cpp and registry.cpp count on for TensorRT 10.
CALLED_SLOTS_10 = {
    "findLogger": 0,
    "log": 0,
    "registerCreator": 12,
    "getAllCreators": 13,
    "deregisterCreator": 15,
}


@pytest.fixture(scope="module")
def headers() -> Path:
    return official_headers()


def test_own_declarations_equal_the_official_ones(headers: Path) -> None:
    own = probe_output(ABI / "slot_probe.cpp", None).splitlines()
    official = probe_output(ABI / "slot_probe.cpp", headers, ["-Wno-deprecated-declarations"]).splitlines()
    assert own == official
    assert sum(" slot " in line for line in own) == 35


def test_slots_that_the_library_calls(headers: Path) -> None:
    assert VERSION[0] == 10
    printed = probe_output(
        ABI / "called_slots_probe.cpp", headers, ["-Wno-deprecated-declarations", "-isystem", str(headers)]
    )
    assert {name: int(slot) for name, slot in map(str.split, printed.splitlines())} == CALLED_SLOTS_10
