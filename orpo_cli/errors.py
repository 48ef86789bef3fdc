"""Errors for users, each with an exit code.

The message of an ``OrpoError`` says where, what, the rule and the remedy. The command line catches no other exception:
every other one is a bug and keeps its traceback (exit code 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from orpo_cli.control_characters import one_line

DOCS = "https://github.com/orpo-cli/orpo-cli/blob/main/docs"  # pages that messages name: a wheel does not contain them


@dataclass(frozen=True)
class Problem:
    """One error in a recipe or, with ``severity`` warning, one value that is probably a mistake.

    ``code`` names the kind of problem; ``orpo explain CODE`` and docs/troubleshooting/CODE.md explain it.
    ``path`` is the dotted name in the recipe (``training.learning_rate``). ``line`` and ``column`` count from 1; they are
    None if the value is not from a file (a default, a missing key).
    """

    code: str
    message: str
    path: str = ""
    file: str | None = None
    line: int | None = None
    column: int | None = None
    remedy: str | None = None
    severity: Literal["error", "warning"] = "error"

    def location(self) -> str:
        """``file:line:column: path``, as far as they are known."""
        position = self.file or ""
        if self.line is not None:
            position += f":{self.line}"
            if self.column is not None:
                position += f":{self.column}"
        return ": ".join(part for part in (position, self.path) if part)

    def record_text(self) -> str:
        """Path and message, as run.json has them."""
        return f"{self.path}: {self.message}" if self.path else self.message

    def text(self) -> str:
        """One line for a terminal: location, message, remedy (without a list below it), and the code in brackets."""
        message = f"warning: {self.message}" if self.severity == "warning" else self.message
        line = ": ".join(part for part in (self.location(), message) if part)
        remedy, has_list, _ = (self.remedy or "").partition(":\n    ")
        return one_line(" ".join(filter(None, (line, f"{remedy}." if has_list else remedy, f"[{self.code}]"))))


def explain_hint(problems: Sequence[Problem]) -> str:
    """The command that explains ``problems``."""
    codes = {problem.code for problem in problems}
    return f"`orpo explain {codes.pop() if len(codes) == 1 else 'CODE'}` shows the reason, an example and its repair."


class OrpoError(Exception):
    """Error that the user can fix. ``str()`` is the message; ``remedy`` says how to fix it."""

    exit_code = 1
    kind = "error"
    problems: tuple[Problem, ...] = ()  # those of a recipe on this machine, if the message lists them
    # Of several processes: whether another one caused the error, and whether another one prints it.
    is_secondary, is_reported = False, False

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]  # add_note() is not used, because a remedy may be replaced
        """The remedy, below the message in a traceback: for Python programs that do not catch the error."""
        return [f"→ {self.remedy}"] if self.remedy else []


class UsageError(OrpoError):
    """The command line or one of its paths is wrong, or an output directory is in use."""

    exit_code = 2
    kind = "usage"


STRICT = "--strict makes warnings errors."


class RecipeError(UsageError):
    """A recipe is invalid, or has warnings and may have none. ``problems`` has every problem, not only the first."""

    kind = "recipe"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problem.text() for problem in self.problems), remedy=explain_hint(self.problems))


class MachineError(OrpoError):
    """The machine or the environment does not meet a requirement: memory, disk, permission, a missing package, no model."""

    exit_code = 3
    kind = "machine"


class DataError(OrpoError):
    """The data cannot be read, or contains no usable pair."""

    exit_code = 4
    kind = "data"


class RunError(OrpoError):
    """Training, evaluation or a check of the result failed."""

    exit_code = 5
    kind = "run"


class HubError(OrpoError):
    """The hub could not be reached, is busy or failed: the same command may succeed later."""

    exit_code = 6
    kind = "hub"


class HubRefused(HubError):
    """The hub refused: token, permission, not found, gated, or files of somebody else. A retry does not help."""

    exit_code = 7


def hub_error_type(status_code: int) -> type[HubError]:
    """The error for a response of the hub: HubRefused unless the status allows a retry."""
    return HubError if status_code in (408, 409, 412, 425, 429) or status_code >= 500 else HubRefused


class Interrupted(OrpoError):
    """A signal, such as Ctrl-C, ended the command; ``orpo_cli.interruption`` says which."""

    exit_code = 130
    kind = "interrupted"
