"""Where tables go: whole, on a terminal of any width, into a file or into a pipe."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # rich takes a third of the time that a command has to show its help
    from rich.console import Console
    from rich.table import Table

# Columns where the output is no terminal: more than any table or note takes, so that none is cut
# or folded. rich would take 80, whatever the width of what reads it.
UNLIMITED = 100_000
READER_GONE = 141  # the exit code of a program whose pipe was closed, for shells: 128 + SIGPIPE


def make_console(file: Any = None) -> Console:
    """A console that prints as wide as its terminal is, and without a limit where there is none.

    Args:
      file: where to print; None is standard output.
    """
    from rich.console import Console

    console = Console(file=file)
    return console if console.is_terminal else Console(file=file, width=UNLIMITED)


def add_columns(table: Table, headings: Sequence[str], *, justify: Any = "left") -> None:
    """Adds columns whose cells go on in the next line where a terminal is too narrow for them.

    By default rich would put an ellipsis in place of what does not fit, be it the last digits of a
    number. The widest columns give way first.

    Args:
      table: gets the columns.
      headings: one a column.
      justify: "left" or "right", of the cells.
    """
    for heading in headings:
        table.add_column(heading, justify=justify, overflow="fold")


@contextlib.contextmanager
def quiet_broken_pipe() -> Iterator[None]:
    """Ends the program without a traceback where the reader of standard output has gone.

    `launch.py --help | head` closes the pipe before all is written. The exit code is then
    `READER_GONE`. A pipe to anything else that breaks stays an error.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # here, where it can be answered: Python's own at the end cannot
    except BrokenPipeError:
        if not _reader_gone():
            raise
        # What is left to write when Python ends goes into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(READER_GONE)


def _reader_gone() -> bool:
    """Whether standard output is a pipe whose other end is closed."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)  # errors are told without being asked for
    except (AttributeError, OSError):  # not POSIX, or no file at all
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
