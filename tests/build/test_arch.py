from __future__ import annotations

import pytest

from r1trt.arch import ARCHITECTURES, FP8_MIN_SM, architecture, require_precision
from r1trt.errors import ConfigError, PlanError


def test_ampere_refuses_fp8_and_says_what_it_lacks() -> None:
    with pytest.raises(PlanError) as caught:
        require_precision(architecture("ampere"), "fp8")
    assert "no FP8 tensor cores" in caught.value.details["found"]
    assert "--bf16" in caught.value.details["fix"]
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("name", ["ada", "hopper", "blackwell"])
def test_newer_architectures_take_fp8_by_default(name: str) -> None:
    arch = architecture(name)
    require_precision(arch, "fp8")
    assert arch.default_precision == "fp8"
    assert min(arch.sms) >= FP8_MIN_SM


def test_each_architecture_has_its_builder() -> None:
    found = {name: arch.backend for name, arch in ARCHITECTURES.items()}
    rtx = dict.fromkeys(("ampere", "ada", "blackwell"), "tensorrt-rtx")
    assert found == {**rtx, "hopper": "tensorrt", "cpu": "onnxruntime"}


def test_no_sm_belongs_to_two_architectures() -> None:
    sms = [sm for arch in ARCHITECTURES.values() for sm in arch.sms]
    assert len(sms) == len(set(sms))


def test_unknown_architecture_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="hopper"):
        architecture("turing")
