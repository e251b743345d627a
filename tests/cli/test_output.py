from __future__ import annotations

import pytest

from r1trt.cli.output import fact_lines, progress_reporter, table_lines


def test_tables_align_numbers_to_the_right() -> None:
    assert table_lines(("name", "n"), [("a", 5), ("long name", 12)]) == [
        "name        n",
        "---------  --",
        "a           5",
        "long name  12",
    ]


def test_empty_table() -> None:
    assert table_lines(("name",), []) == ["name", "----"]


def test_names_from_files_do_not_reach_the_terminals_controls() -> None:
    lines = fact_lines({"name": "\x1b[2Jgone\nnext"})
    assert lines == ["  name  \N{REPLACEMENT CHARACTER}[2Jgone\N{REPLACEMENT CHARACTER}next"]


def test_progress_off_a_terminal_is_a_line_for_each_phase(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_reporter() as progress:
        for done in range(1000):
            progress("reading", done, 1000)
        progress("writing", 0, 0)
    printed = capsys.readouterr()
    assert printed.err == "r1trt: reading 0/1000\nr1trt: writing\n" and not printed.out
