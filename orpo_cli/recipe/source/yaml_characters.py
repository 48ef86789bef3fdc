"""Characters that editors and web pages put into YAML, which reads them as text: no-break spaces, typographic quotes, colons without a space."""

from __future__ import annotations

import re
import unicodedata

_SPACES = "\u00a0\u1680\u2000-\u200d\u202f\u205f\u2060\u3000\ufeff"
_OPENING_QUOTES, _CLOSING_QUOTES = "“”„‟‘’‚«‹", "”“‟’‘»›\"'"
_SPACE_AT_EDGE = re.compile(f"^[{_SPACES}]|[{_SPACES}]$")
_INDENTED = re.compile(f"[ \\t]*[{_SPACES}]")
_QUOTED = re.compile(f"[{_OPENING_QUOTES}](.*)[{_CLOSING_QUOTES}]", re.DOTALL)
_ANY_QUOTE = re.compile("[“”„‟«»]|(?<!\\w)[‘’‚‹›]|[‘’‚‹›](?!\\w)")
_TYPED = re.compile(r"[-+]?\d[\d.]*(?:[eE][-+]?\d+)?|true|false|null")
_DASH = re.compile("([–—−•])[ \u00a0]+(.*)")
# A key, and a value that follows its colon without an ASCII space: `path:x`, `path：x`, `path = x`, but not `https://x`.
_NO_SPACE = re.compile(r"\s*(?:- +)?([A-Za-z_]\w*)(?::(?![ /:\\]|$)|：|( *=(?!=)))\s*(\S.*)", re.DOTALL)


def misleading_characters(text: str, *, is_key: bool) -> tuple[str, str] | None:
    """Message and remedy for a key or value without quotes that YAML reads with characters that nobody means; None if it has none."""
    what = "key" if is_key else "value"
    if found := _SPACE_AT_EDGE.search(text):
        edge = "starts" if found.start() == 0 else "ends"
        remedy = "Indent with ordinary spaces" if is_key and edge == "starts" else "Remove it"
        message = f"the {what} `{text.strip()}` {edge} with {_name(found.group())}, which is text in YAML."
        return message, f"{remedy}, or put straight quotes around the {what}."
    if is_key and (dash := _DASH.fullmatch(text)):
        return f"the key `{text}` starts with {_name(dash[1])}.", f"A list item starts with a hyphen: `- {dash[2]}`."
    if quoted := _QUOTED.fullmatch(text):
        written = quoted[1] if _TYPED.fullmatch(quoted[1]) and not is_key else f'"{quoted[1]}"'
        return f"the {what} {text} has typographic quotes, which are text in YAML.", f"Write {written}."
    return None


def needs_quotes(text: str) -> bool:
    """Whether this reader refuses ``text`` without quotes."""
    return misleading_characters(text, is_key=False) is not None


def missing_space(text: str) -> str | None:
    """Remedy for ``path:pairs.jsonl`` and ``path = pairs.jsonl``, which YAML reads as one text; None for another text."""
    found = _NO_SPACE.fullmatch(text)
    if found is None:
        return None
    value = found[3].split("\n")[0].strip()
    rule = "a colon and a space" if found[2] else "a space after the colon"
    return f"Write {rule}: `{found[1]}: {value if len(value) <= 60 else value[:59] + '…'}`."


def syntax_remedy(lines: list[str], last: int, first: int | None = None) -> str | None:
    """Remedy for a syntax error at line ``last``, whose construct starts at line ``first``: what those lines and the one above have."""
    numbers = dict.fromkeys([last, *([] if first is None else [first]), last - 1, last - 2])
    found = [(number, lines[number - 1]) for number in numbers if 0 < number <= len(lines)]
    for number, line in found:
        if _INDENTED.match(line):
            space = _name(line.lstrip(" \t")[0])
            return f"Line {number} is indented with {space}: indent with ordinary spaces."
        if _ANY_QUOTE.search(line.partition(" #")[0]):
            return f"Line {number} has typographic quotes: write straight quotes."
        if remedy := missing_space(line.rstrip()):
            return f"Line {number}: {remedy[0].lower()}{remedy[1:]}"
    return None


def _name(character: str) -> str:
    name = "a no-break space" if character == "\u00a0" else f"the character {unicodedata.name(character, '?').lower()}"
    return f"{name} (U+{ord(character):04X})"
