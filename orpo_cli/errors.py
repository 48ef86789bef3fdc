"""The errors users meet, each with the exit code it means.

An ``OrpoError`` says where, what, the rule and the remedy. It is the only kind that the command line catches:
anything else is a bug and keeps its traceback (exit code 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a recipe, or (``severity`` warning) that is hardly meant.

    ``code`` names the kind of problem; ``orpo explain CODE`` and docs/troubleshooting/CODE.md explain it.
    ``path`` is the dotted name in the recipe (``training.learning_rate``), ``line`` and ``column`` count from 1 and
    are None where the value was not written in a file (a default, a missing key of the whole document).
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
        """``file:line:column: path`` as far as it is known."""
        place = self.file or ""
        if self.line is not None:
            place += f":{self.line}"
            if self.column is not None:
                place += f":{self.column}"
        return ": ".join(part for part in (place, self.path) if part)

    def text(self) -> str:
        """One line for a terminal: where, what, remedy, and the code in brackets."""
        message = f"warning: {self.message}" if self.severity == "warning" else self.message
        line = ": ".join(part for part in (self.location(), message) if part)
        return f"{line} {self.remedy} [{self.code}]" if self.remedy else f"{line} [{self.code}]"

    def as_dict(self) -> dict[str, Any]:
        """The problem as JSON-ready values, for ``--json``."""
        return asdict(self)


def explain_hint(problems: Sequence[Problem]) -> str:
    """The command that explains ``problems``."""
    codes = {problem.code for problem in problems}
    return f"`orpo explain {codes.pop() if len(codes) == 1 else 'CODE'}` shows the reason, an example and its repair."


class OrpoError(Exception):
    """Something the user can put right. ``str()`` is the message; ``remedy`` says what to do about it."""

    exit_code = 1
    kind = "error"

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class UsageError(OrpoError):
    """The command line or a path on it is wrong, or an output directory is in use."""

    exit_code = 2
    kind = "usage"


class RecipeError(UsageError):
    """A recipe does not hold; carries every problem found, not only the first."""

    kind = "recipe"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problem.text() for problem in self.problems), remedy=explain_hint(self.problems))


class MachineError(OrpoError):
    """The machine or the environment cannot do it: memory, disk, permission, a missing package, no model."""

    exit_code = 3
    kind = "machine"


class DataError(OrpoError):
    """The data cannot be read, or leaves no usable pair."""

    exit_code = 4
    kind = "data"


class RunError(OrpoError):
    """Training, evaluation or a check of its result failed."""

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
    """Ctrl-C or SIGTERM; a checkpoint was saved if training had begun."""

    exit_code = 130
    kind = "interrupted"
