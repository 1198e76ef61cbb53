"""``coldfusion status --watch`` in a terminal, as somebody sees it who sits before it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.acceptance.world import World, eventually

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
OWN_SCREEN, FORMER_SCREEN = "\x1b[?1049h", "\x1b[?1049l"


class Terminal:
    """What a process has written to a pseudo-terminal so far."""

    def __init__(self, master: int) -> None:
        self._master = master
        self._data = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def text(self) -> str:
        """As it was written, with control sequences."""
        return self._data.decode(errors="replace")

    def screens(self) -> list[str]:
        """What was on the screen, one picture after the other."""
        drawn = self.text.partition(OWN_SCREEN)[2].partition(FORMER_SCREEN)[0]
        pictures = [CONTROL.sub("", each) for each in drawn.split("\x1b[H")]
        return [each for each in pictures if each.strip()]

    def join(self) -> None:
        """Wait until nobody writes any more."""
        self._thread.join(10)

    def _read(self) -> None:
        try:
            while piece := os.read(self._master, 65536):
                self._data += piece
        except OSError:  # how Linux says that nobody has the other end open
            pass


@contextmanager
def open_terminal(columns: int, lines: int) -> Iterator[tuple[Terminal, int]]:
    """A terminal of this size, and the end of it that a process gets."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    try:
        yield Terminal(master), slave
    finally:
        os.close(master)


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (160, 50)])
def test_a_watch_draws_screens_that_fit_until_it_is_interrupted(
    idle_world: World, columns: int, lines: int
) -> None:
    with open_terminal(columns, lines) as (terminal, slave):
        process = idle_world.popen(
            *("coldfusion", "status", "--watch"),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            own={"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": str(lines)},
        )
        os.close(slave)
        eventually(lambda: len(terminal.screens()) >= 2, 30)
        process.send_signal(signal.SIGINT)

        assert process.wait(10) == 0
        terminal.join()
        for screen in terminal.screens():
            rows = screen.splitlines()
            assert len(rows) <= lines
            assert max(map(len, rows)) <= columns
            assert re.search(r"base version 0, \d+ \w+ old +pending 0 of \d+", screen)
        left = CONTROL.sub("", terminal.text.partition(FORMER_SCREEN)[2])
        assert "none of the last versions was evaluated" in left  # the last picture stays
        assert "Traceback" not in terminal.text
