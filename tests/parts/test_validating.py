"""Models in parts through `r1trt validate`."""

from __future__ import annotations

import json

import pytest
from split_models import SplitModel

from r1trt.cli import main


@pytest.mark.parametrize("target", [("cpu", "fp32"), ("ada", "bf16")])
def test_parts_are_validated_as_one_model(
    llama: SplitModel, target: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    arch, precision = target
    options = {} if arch == "cpu" else {"arch": arch, "precision": precision}
    engine = llama.engine(2, **options)
    code = main(["validate", str(engine), "--max-tokens", "128", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert code == 0, printed


def test_text_is_generated(llama: SplitModel, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for parts in (None, 3):
        command = ["generate", str(llama.engine(parts)), "--prompt", "a b", "--raw", "--temperature", "0"]
        assert main([*command, "--max-new-tokens", "8", "--json"]) == 0
        texts.append(json.loads(capsys.readouterr().out)["text"])
    assert texts[0] == texts[1]
