"""Word wrap of a text in pieces: lines fit, words stay whole, and no character is lost."""

from __future__ import annotations

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from orpo_cli.report.word_wrap import WordWrap

TEXT = (
    "The sky is blue because air scatters blue light more than red light.\n\n  - one\n  - two words and more of them\n"
)


def wrapped(pieces: list[str], width: int | None, column: int = 0) -> str:
    written: list[str] = []
    wrap = WordWrap(width, written.append, column)
    for piece in pieces:
        wrap.add(piece)
    wrap.finish()
    return "".join(written)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_the_lines_do_not_depend_on_the_pieces(size: int) -> None:
    pieces = [TEXT[at : at + size] for at in range(0, len(TEXT), size)]
    assert wrapped(pieces, 20) == wrapped([TEXT], 20)
    first = TEXT.splitlines()[0]
    assert wrapped([TEXT], 20).startswith("\n".join(textwrap.wrap(first, 20)) + "\n\n  - one\n")


def test_a_label_before_the_text_counts() -> None:
    assert wrapped(["aaaa bbbb"], 10) == "aaaa bbbb"
    assert wrapped(["aaaa bbbb"], 10, column=6) == "aaaa\nbbbb"


def test_without_a_width_pieces_are_written_as_they_come() -> None:
    assert wrapped(["a  b", "\t c ", "\n"], None) == "a  b\t c \n"


def test_scripts_without_spaces_break_after_every_character() -> None:
    assert wrapped(["空は青い", "です。"], 6) == "空は青\nいです\n。"


@given(pieces=st.lists(st.text(st.sampled_from("ab空 \n\t-"), max_size=12), max_size=12), width=st.integers(8, 30))
def test_no_line_is_longer_than_the_width_and_no_character_is_lost(pieces: list[str], width: int) -> None:
    shown = wrapped(pieces, width)
    assert "".join(shown.split()) == "".join("".join(pieces).split())
    text = "".join(pieces)
    longest = max((cell_len(word) for word in text.split()), default=0)
    indented = max((cell_len(line) for line in text.expandtabs(4).splitlines() if not line.strip()), default=0)
    if longest <= width and not any(line[:1].isspace() for line in text.splitlines()):
        assert max((cell_len(line) for line in shown.splitlines()), default=0) <= max(width, indented)
