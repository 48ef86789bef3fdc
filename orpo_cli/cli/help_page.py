"""Help page of a command: typer shows the type of a flag as `<bool>`, which takes a column and tells nothing."""

from __future__ import annotations

from typing import Any


def hide_flag_types(command: Any) -> Any:
    """``command`` of typer, or the group of commands, with flags that show no type."""
    for parameter in command.params:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    for inner in getattr(command, "commands", {}).values():
        hide_flag_types(inner)
    return command
