"""Shell script reader: commands with their words, with variables replaced as a shell replaces them.

It reads what training scripts use: quotes, comments, continued lines, variables with defaults, and arrays. Command substitutions,
arithmetic and unset variables stay as they are written, because only the shell knows their values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_NAME = r"[A-Za-z_]\w*"
_ASSIGNMENT = re.compile(rf"({_NAME})(\+?)=(.*)", re.DOTALL)
_VARIABLE = re.compile(rf"\$({_NAME})")
_DEFAULT = re.compile(rf"({_NAME}|\d+)(:?[-=])(.*)", re.DOTALL)
_ARRAY = re.compile(rf"({_NAME})\[[@*]\]")
_HERE_DOCUMENT = re.compile(r"<<-?\s*(['\"]?)(\w+)\1")
_REDIRECTION = re.compile(r"(?:>>|>\||>&|<&|>|<)[ \t]*")
_PREFIXES = frozenset(["then", "do", "else", "{", "!", "$", "time", "nohup", "exec", "sudo"])
_OPENING, _CLOSING = frozenset(["if", "for", "while", "until", "case"]), frozenset(["fi", "done", "esac"])
_DECLARATIONS = frozenset(["export", "declare", "local", "readonly", "typeset"])
_ALL_ARGUMENTS = ["$@"]  # of the script, which are not known
_FLAG_BELOW = re.compile(r"\s*(?:#[^\n]*\n\s*)*--[A-Za-z_]")
MAX_VALUE = 100_000  # characters of a variable


@dataclass(frozen=True)
class ShellCommand:
    """Command of a script: its words, the numbers of its first and last line, and of comment lines between them."""

    words: tuple[str, ...]
    first_line: int
    last_line: int
    comment_lines: tuple[int, ...] = ()


@dataclass(frozen=True)
class ShellScript:
    """Commands of a script, and the variables whose default in ``${NAME:-default}`` was used."""

    commands: tuple[ShellCommand, ...]
    defaults: Mapping[str, str]


def read_script(text: str) -> ShellScript:
    """Read the commands in ``text``. Raises ValueError if a quote is not closed."""
    reader = _Reader(re.sub(r"[ \t]+[\^`]\n", " \\\n", text.replace("\r\n", "\n").replace("\r", "\n")))
    try:
        reader.read()
    except RecursionError:
        raise ValueError("its expansions are nested too deeply") from None
    return ShellScript(tuple(reader.commands), reader.defaults)


class _Reader:
    """Reader of one script. ``word`` is the word in progress: None between words, since ``""`` is a word."""

    def __init__(self, text: str) -> None:
        self.text, self.position = text, 0
        self.commands: list[ShellCommand] = []
        self.variables: dict[str, list[str]] = {}  # several values: an array
        self.defaults: dict[str, str] = {}
        self.words: list[str] = []
        self.word: str | None = None
        self.array: str | None = None  # the name of the array whose values are read
        self.array_start = 0
        self.depth = 0  # of if, for, while and case: what they assign is not known
        self.conditional = False  # after && or ||
        self.drop_word = False  # the word after `>`
        self.here_documents: list[str] = []
        self.first_line = 0
        self.comment_lines: list[int] = []

    def read(self) -> None:
        while self.position < len(self.text):
            self.next_character()
        self.end_command()

    def next_character(self) -> None:
        character = self.text[self.position]
        if character == "\\":
            self.escape()
        elif character in "'\"":
            self.quoted(character)
        elif character == "`":
            end = self.text.find("`", self.position + 1)
            self.append(self.text[self.position : end + 1] if end > 0 else "`")
            self.position = end + 1 if end > 0 else self.position + 1
        elif character == "$":
            self.expand_unquoted()
        elif character == "#" and self.word is None:
            self.comment()
        elif character in " \t":
            self.end_word()
            self.position += 1
        elif character in "<>":
            self.redirect()
        elif character in "()":
            self.parenthesis(character)
        elif character in "\n;&|":
            self.separator(character)
        else:
            self.append(character)
            self.position += 1

    def append(self, text: str) -> None:
        if self.word is None and not self.words and self.array is None:
            self.first_line = self.line()
        self.word = (self.word or "") + text

    def line(self) -> int:
        return self.text.count("\n", 0, self.position) + 1

    def escape(self) -> None:
        if continued := re.compile(r"\\[ \t]*\n").match(self.text, self.position):
            if continued.end() > self.position + 2:
                self.end_word()
            self.position = continued.end()
            return
        if commented := re.compile(r"\\[ \t]+(?=#)").match(self.text, self.position):
            self.end_word()
            self.position = commented.end()
            return
        self.append(self.text[self.position + 1 : self.position + 2])
        self.position += 2

    def quoted(self, quote: str) -> None:
        start = self.position
        self.append("")
        self.position += 1
        while self.text[self.position : self.position + 1] != quote:
            if self.position >= len(self.text):
                line = self.text.count("\n", 0, start) + 1
                raise ValueError(f"the quote {quote} on line {line} is not closed")
            character = self.text[self.position]
            following = self.text[self.position + 1 : self.position + 2]
            if quote == '"' and character == "\\" and following in ('"', "\\", "$", "`", "\n"):
                self.append("" if following == "\n" else following)
                self.position += 2
            elif quote == '"' and character == "$":
                values, self.position = self.expansion(self.text, self.position)
                self.append_values(values)
            else:
                self.append(character)
                self.position += 1
        self.position += 1

    def expand_unquoted(self) -> None:
        start = self.position
        values, self.position = self.expansion(self.text, self.position)
        if self.word is None and values != [self.text[start : self.position]]:
            values = [part for value in values for part in value.split()]  # as a shell divides the value of a variable
        self.append_values(values)

    def append_values(self, values: list[str]) -> None:
        """Append the values of an expansion; several are words of their own."""
        if self.word in (None, "") and values in ([], _ALL_ARGUMENTS):
            self.word = None
            return
        for index, value in enumerate(values):
            if index:
                self.end_word()
            self.append(value)

    def comment(self) -> None:
        """Skip a comment. Within a command whose flags go on below it does not end the command, although it does in a shell."""
        end = self.text.find("\n", self.position)
        end = len(self.text) if end < 0 else end
        if self.words and self.array is None and _FLAG_BELOW.match(self.text, end):
            self.comment_lines.append(self.line())
            end += 1
        self.position = end

    def redirect(self) -> None:
        if self.word is not None and self.word.isdigit():
            self.word = None  # 2>
        self.end_word()
        if here := _HERE_DOCUMENT.match(self.text, self.position):
            self.here_documents.append(here[2])
            self.position = here.end()
            return
        found = _REDIRECTION.match(self.text, self.position)
        self.position = found.end() if found else self.position + 1
        self.drop_word = True

    def parenthesis(self, character: str) -> None:
        assigned = _ASSIGNMENT.fullmatch(self.word or "")
        if character == "(" and assigned and not assigned[3]:
            self.array, self.array_start, self.word = f"{assigned[1]}{assigned[2]}", len(self.words), None
        elif character == ")" and self.array is not None:
            self.end_word()
            values, self.words = self.words[self.array_start :], self.words[: self.array_start]
            self.assign(self.array.removesuffix("+"), values, adds=self.array.endswith("+"))
            self.array = None
        else:
            self.end_command()
        self.position += 1

    def separator(self, character: str) -> None:
        self.position += 1
        if self.array is not None:
            self.end_word()
            return
        following = self.text[self.position : self.position + 1]
        if character == "&" and following == ">":  # `&> file`
            self.end_word()
            return
        self.end_command()
        self.conditional = character in "&|" and following == character
        self.position += self.conditional
        if character == "\n":
            for delimiter in self.here_documents:
                end = re.compile(rf"^\t*{delimiter}$", re.MULTILINE).search(self.text, self.position)
                self.position = end.end() if end else len(self.text)
            self.here_documents = []

    def end_word(self) -> None:
        if self.word is not None and not self.drop_word:
            self.words.append(self.word)
        if self.word is not None:
            self.word, self.drop_word = None, False

    def end_command(self) -> None:
        self.end_word()
        words, self.words, self.array, self.drop_word = self.words, [], None, False
        comments, self.comment_lines = tuple(self.comment_lines), []
        while words and words[0] in _PREFIXES:
            words = words[1:]
        if words and words[0].startswith("!"):  # a notebook's `!swift`
            words = [words[0][1:], *words[1:]]
        if not words:
            return
        self.depth += (words[0] in _OPENING) - (words[0] in _CLOSING)
        if words[0] == "for" and len(words) > 1:
            self.variables.pop(words[1], None)
        declared = [word for word in words[1:] if not word.startswith("-")] if words[0] in _DECLARATIONS else words
        assignments = [_ASSIGNMENT.fullmatch(word) for word in declared]
        if all(assignments) or words[0] in _DECLARATIONS:
            for each in filter(None, assignments):
                self.assign(each[1], [each[3]], adds=bool(each[2]))
        elif words[0] not in _OPENING:
            last = self.text.count("\n", 0, self.position) + (self.text[self.position - 1 : self.position] != "\n")
            self.commands.append(ShellCommand(tuple(words), self.first_line, max(last, self.first_line), comments))

    def assign(self, name: str, values: list[str], *, adds: bool) -> None:
        if sum(map(len, values)) > MAX_VALUE:
            raise ValueError(f"the variable {name} is longer than {MAX_VALUE:,} characters")
        if self.depth > 0 or self.conditional:
            self.variables.pop(name, None)
        elif not adds:
            self.variables[name] = values
        elif len(values) == 1 and len(self.variables.get(name, [])) == 1:
            self.variables[name] = [self.variables[name][0] + values[0]]
        else:
            self.variables[name] = [*self.variables.get(name, []), *values]

    def expansion(self, text: str, start: int) -> tuple[list[str], int]:
        """Values of the expansion at ``start``, a ``$``, and the position after it. What is not known stays as it is written."""
        if text.startswith("$(", start) or text.startswith("${", start):
            end = _closing(text, start + 1)
            written = text[start:end]
            return (self.braces(written) if written.startswith("${") else [written]), end
        if variable := _VARIABLE.match(text, start):
            return self.variables.get(variable[1], [variable[0]]), variable.end()
        end = start + (2 if text[start + 1 : start + 2] in tuple("@*#?$!0123456789") else 1)
        return (_ALL_ARGUMENTS if text[start:end] in ("$@", "$*") else [text[start:end]]), end

    def braces(self, written: str) -> list[str]:
        body = written[2:-1]
        name = array[1] if (array := _ARRAY.fullmatch(body)) else body
        if name in self.variables:
            return self.variables[name]
        found = _DEFAULT.fullmatch(body)
        if found is None:
            return _ALL_ARGUMENTS if body.startswith(("@", "*")) else [written]
        known = self.variables.get(found[1])
        if known is not None and (known != [""] or found[2] in "-="):
            return known
        default = self.substitute(found[3].strip("'\""))
        self.defaults[found[1]] = default
        if found[2].endswith("="):
            self.variables[found[1]] = [default]
        return [default]

    def substitute(self, text: str) -> str:
        """Copy of ``text`` with its expansions replaced."""
        parts, position = [], 0
        while (start := text.find("$", position)) >= 0:
            values, end = self.expansion(text, start)
            parts += [text[position:start], " ".join(values)]
            position = end
        return "".join([*parts, text[position:]])


def _closing(text: str, start: int) -> int:
    """Position after the bracket that closes the one at ``start``, or the end of the text."""
    opening, closing = text[start], {"(": ")", "{": "}"}[text[start]]
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] == opening) - (text[position] == closing)
        if depth == 0:
            return position + 1
    return len(text)
