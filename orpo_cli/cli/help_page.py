"""Help page of a command: typer shows the type of a flag as `<bool>`, which takes a column and tells nothing."""

from __future__ import annotations

from typing import Any


def hide_flag_types(command: Any) -> Any:
    """``command`` of typer, or the group of commands, with flags that show no type."""
    find_help_option = command.get_help_option

    def help_option(context: Any) -> Any:  # it is not among the parameters
        return _without_type(find_help_option(context))

    command.get_help_option = help_option
    for parameter in command.params:
        _without_type(parameter)
    for inner in getattr(command, "commands", {}).values():
        hide_flag_types(inner)
    return command


def _without_type(parameter: Any) -> Any:
    if getattr(parameter, "is_flag", False):
        parameter.metavar = ""
    return parameter
