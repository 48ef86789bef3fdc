"""Terminal emulator for tests: what a person sees of a command, with everything that has scrolled away.

It knows the escape sequences that rich writes: moves to the start of a line and upwards, and erasing a line. Others, such as colours,
leave the text as it is.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Sequence
from pathlib import Path

TOKEN = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]|\x1b\][^\x07]*\x07|[\r\n]|[^\x1b\r\n]+|\x1b")


class Terminal:
    """Lines of text of a terminal with ``width`` columns, the scrollback included."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.lines = [""]
        self.row = self.column = 0

    def feed(self, text: str) -> None:
        """Show output of a command."""
        for token in TOKEN.findall(text):
            if token == "\r":
                self.column = 0
            elif token == "\n":
                self._next_line()
            elif token.startswith("\x1b"):
                self._control(token)
            else:
                for character in token:
                    self._write(character)

    def text(self) -> str:
        """All lines, without empty ones at the end."""
        return "\n".join(line.rstrip() for line in self.lines).rstrip("\n")

    def _write(self, character: str) -> None:
        if self.column == self.width:
            self.column = 0
            self._next_line()
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
        self.column += 1

    def _next_line(self) -> None:
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append("")

    def _control(self, token: str) -> None:
        if token.endswith("A"):
            self.row = max(0, self.row - int(re.sub(r"\D", "", token) or 1))
        elif token == "\x1b[2K":
            self.lines[self.row] = ""


def run_in_terminal(
    command: Sequence[str], folder: Path, *, width: int = 80, height: int = 24, **environment: str
) -> tuple[int, str]:
    """(exit code, bytes as text) of a command whose standard output and error are a terminal of this size."""
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    inherited = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**inherited, "TERM": "xterm-256color", **environment},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    output = b""
    try:
        while read := os.read(master, 65536):
            output += read
    except OSError:  # the last process that had the terminal has ended
        pass
    finally:
        os.close(master)
    return process.wait(60), output.decode(errors="replace")
