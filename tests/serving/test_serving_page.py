"""The example of docs/serving.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from r1trt.runtime.generate import GenerateConfig, generate

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


def test_the_example_gives_the_text_that_generation_gives(
    tiny_engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [example] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(example, str(PAGE), "exec"), {"engine": tiny_engine})
    alone = generate(GenerateConfig(engine=tiny_engine, prompt="Every function", raw=True, max_new_tokens=16))
    text = "".join(alone)
    assert alone.statistics is not None
    assert capsys.readouterr().out == f"{text} {alone.statistics.finish_reason}\n"
