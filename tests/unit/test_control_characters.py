"""Control characters in messages."""

from __future__ import annotations

from orpo_cli.control_characters import message_lines, one_line


def test_a_message_keeps_the_lines_of_its_list_and_no_other_line_breaks() -> None:
    assert message_lines("changed:\n  a: 1 → 2\n  b: x\ny") == "changed:\n  a: 1 → 2\n  b: x\\ny"
    assert one_line("a\n  b\x1b[2J") == "a\\n  b\\x1b[2J"
