r"""Control characters in text from data, models, servers and file names: shown as escapes (``\x1b``), because they control a terminal.

They move the cursor, write to the clipboard, hide links or reverse the direction of text, and so can make output lie.
"""

from __future__ import annotations

import re

# C0 except tab and line feed, DEL, C1, line separators, changes of direction, and surrogates, which UTF-8 cannot encode.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def escape_controls(text: str) -> str:
    """``text`` with visible control characters; line feeds and tabs stay."""
    return _CONTROLS.sub(lambda match: _escape(match[0]), text)


def one_line(text: str) -> str:
    r"""``text`` with visible control characters, on one line: a line feed is shown as ``\n``."""
    return escape_controls(text).replace("\n", "\\n")


def message_lines(text: str) -> str:
    r"""``text`` with visible control characters; only a line feed before two spaces, which begins an item of a list, stays."""
    return "\n  ".join(one_line(part) for part in text.split("\n  "))


def escape_json_controls(text: str) -> str:
    """The text of a JSON document with escapes for the control characters that JSON allows in strings; its value stays the same."""
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _escape(character: str) -> str:
    if character == "\r":
        return "\\r"
    return f"\\x{ord(character):02x}" if ord(character) < 0x100 else f"\\u{ord(character):04x}"
