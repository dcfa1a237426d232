"""Tables are whole, wherever they are printed."""

import collections
import io

import pytest
from rich.console import Console
from rich.table import Table

from finecausal_jax.runtime import console


class Terminal(io.StringIO):
    def isatty(self):
        return True


def table():
    made = Table()
    console.add_columns(made, ["dive"])
    console.add_columns(made, ("error", "predicted"), justify="right")
    made.add_row("31 of Rendered01_10m_Platform_Women", "+123.456789", "98.7654321")
    return made


def letters(text):
    return collections.Counter(one for one in text if one.isascii() and not one.isspace())


def test_a_file_gets_whole_rows_whatever_the_terminal_beside_it(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    file = io.StringIO()
    out = console.make_console(file)
    out.print(table())
    out.print("a note of " + 80 * "many words ")
    (row,) = (line for line in file.getvalue().splitlines() if "Rendered01" in line)
    assert (
        row.split() == "│ 31 of Rendered01_10m_Platform_Women │ +123.456789 │ 98.7654321 │".split()
    )
    assert file.getvalue().rstrip().endswith("many words many words")
    assert len(file.getvalue().splitlines()) == 6  # the note in one


def test_a_terminal_is_as_wide_as_it_is(monkeypatch):
    monkeypatch.setenv("COLUMNS", "53")
    assert console.make_console(Terminal()).width == 53


@pytest.mark.parametrize("width", [20, 33, 47, 60, 80])
def test_a_narrow_terminal_loses_no_letter(width):
    whole, narrow = io.StringIO(), io.StringIO()
    Console(file=whole, width=200).print(table())
    Console(file=narrow, width=width).print(table())
    assert letters(narrow.getvalue()) == letters(whole.getvalue())
    assert max(map(len, narrow.getvalue().splitlines())) <= width
