"""What a search may choose from is what the table of capabilities says to be real on every target."""

from __future__ import annotations

import pytest

from r1trt.arch import ARCHITECTURES
from r1trt.precision.capabilities import capabilities_of
from r1trt.search.kinds import installed_version, kinds_for_arch

KINDS = {
    "ampere": ["int8 weights", "int8 by row", "int8"],
    "ada": ["int8 weights", "fp8 by row", "fp8"],
    "blackwell": ["int8 weights", "fp8 by row", "fp8"],
    "hopper": ["fp8 weights", "fp8 by row", "fp8"],
}


@pytest.mark.parametrize("arch", KINDS)
def test_kinds(arch: str) -> None:
    target = ARCHITECTURES[arch]
    kinds = kinds_for_arch(target)
    assert [kind.name for kind in kinds] == KINDS[arch]
    for sm in target.offline_sms:
        table = capabilities_of(installed_version(), sm)
        assert not table.note
        for kind in kinds:
            found = table[kind.form]
            assert found.verdict == "executed" and found.dequantized in (None, "inside")
            if kind.quantizes_input:
                assert all(product[:2] == (kind.type, kind.type) for product in found.products)
            assert found.weight == kind.type


def test_a_cpu_has_blocks() -> None:
    kinds = kinds_for_arch(ARCHITECTURES["cpu"])
    assert [(kind.name, kind.type, kind.block_size) for kind in kinds] == [
        ("int8", "int8", 32),
        ("int4", "int4", 32),
    ]
