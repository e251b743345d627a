"""Options of `r1trt precision`; what its commands do is tested with the search."""

from __future__ import annotations

import click
import pytest

from r1trt.calibrate.text import MIN_TOKENS
from r1trt.cli import cli, main

OPTIONS = {
    "search": (
        "model --arch --max-kl --max-perplexity-increase --minimize --device --batch --prompt-tokens"
        " --new-tokens --calibration --heldout --screen-tokens --search-tokens --final-tokens --from-front"
        " --scores --threads -o --output --json"
    ),
    "show": "plan --model --device -o --output --json",
    "diff": "first second --json",
    "explain": "directory layer --model --json",
    "bisect": "model plan --prompt --worst --threads --json",
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_these(name: str) -> None:
    group = cli.commands["precision"]
    assert isinstance(group, click.Group) and set(group.commands) == set(OPTIONS)
    found = {option for parameter in group.commands[name].params for option in parameter.opts}
    assert found == set(OPTIONS[name].split())


def test_texts_are_as_long_as_they_must_be() -> None:
    group = cli.commands["precision"]
    assert isinstance(group, click.Group)
    least = {
        option.name: option.type.min
        for option in group.commands["search"].params
        if str(option.name).endswith("_tokens") and isinstance(option.type, click.IntRange)
    }
    assert [least[name] for name in ("screen_tokens", "search_tokens", "final_tokens")] == [MIN_TOKENS] * 3


@pytest.mark.parametrize("name", OPTIONS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["precision", name, "--help"]) == 0
    assert f"Usage: r1trt precision {name}" in capsys.readouterr().out


@pytest.mark.parametrize("value", ["much", "1 percent", "%"])
def test_shares_are_numbers(value: str, tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["precision", "search", str(tmp_path), "--arch", "ada", "--max-perplexity-increase", value]
    assert main(command) == 2
    assert "is not a share, such as 1% or 0.01" in capsys.readouterr().err
