"""What the documents say must be there."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import click
import pytest

from r1trt.cli import cli

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
]
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
COMMAND = re.compile(r"^(?:\$ )?(r1trt .+)$", re.MULTILINE)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    document = ROOT / name
    targets = [link for link in LINK.findall(document.read_text()) if "://" not in link]
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("line", COMMAND.findall((ROOT / "README.md").read_text()))
def test_commands_have_the_options_that_they_show(line: str) -> None:
    _, name, *arguments = shlex.split(line, comments=True)
    command = cli.commands[name]
    if isinstance(command, click.Group):
        command = command.commands[arguments.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}
    used = [argument.partition("=")[0] for argument in arguments if argument.startswith("-")]
    assert set(used) <= known
    required = [p.name for p in command.params if isinstance(p, click.Argument) and p.required]
    assert len([argument for argument in arguments if not argument.startswith("-")]) >= len(required)


def test_readme_shows_every_command() -> None:
    shown = {
        shlex.split(line, comments=True)[1] for line in COMMAND.findall((ROOT / "README.md").read_text())
    }
    assert set(cli.commands) <= shown


def test_make_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z-]+)`", (ROOT / "README.md").read_text())):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_structure_is_what_the_modules_say() -> None:
    """After a change of modules or their docstrings: `python scripts/write_structure.py`."""
    script = runpy.run_path(str(ROOT / "scripts" / "write_structure.py"))
    assert (ROOT / "docs" / "structure.md").read_text() == script["structure"]()
