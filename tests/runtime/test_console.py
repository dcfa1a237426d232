"""Tables are whole, wherever they are printed; a reader that has gone is no fault."""

import collections
import io
import subprocess
import sys

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


def run_with_a_reader_that_goes(body):
    """Runs code inside `quiet_broken_pipe` whose standard output nobody reads."""
    code = f"""
import runpy, sys
sys.stdin.read()  # until the reader has gone
module = runpy.run_path({console.__file__!r})
with module["quiet_broken_pipe"]():
    {body}
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    process.stdin.close()
    errors = process.stderr.read()
    process.stderr.close()
    return process.wait(), errors


@pytest.mark.parametrize("body", ["print('x' * 10)", "print('x' * 10**6)", "print(1), sys.exit(3)"])
def test_a_reader_that_has_gone_is_no_fault(body):
    assert run_with_a_reader_that_goes(body) == (console.READER_GONE, "")


def test_another_broken_pipe_and_exit_codes_are_passed_on():
    with pytest.raises(BrokenPipeError, match="a worker"), console.quiet_broken_pipe():
        raise BrokenPipeError("a worker")
    with pytest.raises(SystemExit) as ended, console.quiet_broken_pipe():
        sys.exit(3)
    assert ended.value.code == 3
