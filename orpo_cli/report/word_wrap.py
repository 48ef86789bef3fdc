"""Word wrap of a text that arrives in pieces: a terminal itself would break words in the middle."""

from __future__ import annotations

import re
from collections.abc import Callable

from orpo_cli.control_characters import escape_controls

# Characters of East Asian scripts, which have no spaces: a line may break after each.
WIDE = "[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\ua960-\ua97c\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff60]"
PIECES = re.compile(rf"\n|[^\S\n]+|{WIDE}|(?:(?!{WIDE})\S)+")


class WordWrap:
    """Writer of lines of at most ``width`` cells, of which ``column`` are used. A word is written when it is complete.

    A word that is longer than a line is left to the terminal, and control characters are shown as escapes. ``width`` None: pieces
    are written as they come.
    """

    def __init__(self, width: int | None, write: Callable[[str], object], column: int = 0) -> None:
        self._width, self._write, self._column = width, write, column
        self._space = self._word = ""

    def add(self, text: str) -> None:
        """Write ``text`` up to its last complete word."""
        if self._width is None:
            self._write(text)
            return
        for piece in PIECES.findall(escape_controls(text)):
            if piece.isspace():
                self._end_word()
                self._space += piece
                if piece == "\n":
                    self._write("\n")
                    self._space, self._column = "", 0
            elif re.match(WIDE, piece):
                self._end_word()
                self._word = piece
                self._end_word()
            else:
                self._word += piece

    def finish(self) -> None:
        """Write the last word."""
        self._end_word()

    def _end_word(self) -> None:
        from rich.cells import cell_len

        if self._width is None or not self._word:
            return
        space, word = self._space.expandtabs(4), self._word
        self._space = self._word = ""
        cells = cell_len(space + word)
        if self._column and self._column + cells > self._width:
            space, cells, self._column = "\n", cell_len(word), 0
        self._write(space + word)
        self._column += cells
        if self._column > self._width:  # a long word, which the terminal has broken
            self._column %= self._width
