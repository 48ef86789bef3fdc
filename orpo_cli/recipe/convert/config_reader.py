"""Source configuration: its format (YAML, JSON, shell command, printed ``ORPOConfig(...)``), its tool and its keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast, get_args

from orpo_cli.errors import UsageError
from orpo_cli.recipe.convert.command_line import is_command, parse_flags, split_command
from orpo_cli.recipe.convert.launch.launcher_command import split_launcher
from orpo_cli.recipe.convert.printed_config.orpo_config_repr import class_name, is_printed_config, printed_arguments
from orpo_cli.recipe.source.nodes import format_path, plain_values, walk
from orpo_cli.recipe.source.yaml_reader import FORBIDDEN_CHARACTERS, read_yaml

Tool = Literal[
    "axolotl", "llama-factory", "alignment-handbook", "trl", "ms-swift", "orpo-config", "accelerate", "deepspeed"
]
TOOLS: tuple[str, ...] = get_args(Tool)

# Keys that only one tool has. The first key in this table that a file has determines its tool.
_TOOL_OF_KEY: tuple[tuple[str, Tool], ...] = (
    ("rlhf_type", "ms-swift"),
    ("base_model", "axolotl"),
    ("micro_batch_size", "axolotl"),
    ("sequence_len", "axolotl"),
    ("pref_loss", "llama-factory"),
    ("finetuning_type", "llama-factory"),
    ("cutoff_len", "llama-factory"),
    ("dataset_mixture", "alignment-handbook"),
    ("dataset_mixer", "alignment-handbook"),
    ("dataset_splits", "alignment-handbook"),
    ("dataset_name", "trl"),
    ("model_name_or_path", "trl"),
    ("per_device_train_batch_size", "trl"),
    ("distributed_type", "accelerate"),
    ("compute_environment", "accelerate"),
    ("zero_optimization", "deepspeed"),
)


@dataclass(frozen=True)
class SourceConfig:
    """Configuration of another tool: its keys, and their line numbers where known."""

    tool: Tool
    values: dict[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict)
    class_name: str = ""  # of a printed configuration
    is_shell: bool = False
    script: str = ""  # the Python file that a shell command runs
    launcher: Mapping[str, Any] = field(default_factory=dict)  # of a shell command, by accelerate's names
    launcher_name: str = ""


def read_source(text: str, file: str, tool: str = "auto") -> SourceConfig:
    """Read ``text``, the content of ``file``. ``tool`` is ``auto`` or a name of ``TOOLS``.

    Raises RecipeError if it is not valid YAML, UsageError if it is not a configuration of ``tool`` or of any known tool.
    """
    source = _read(text, file, tool)
    if found := FORBIDDEN_CHARACTERS.search(text) or next(
        (match for match in map(FORBIDDEN_CHARACTERS.search, _strings(source.values)) if match), None
    ):
        raise UsageError(f"{file}: contains the forbidden character {found.group()!r}.", remedy="Remove it.")
    return source


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple | set):
        for inner in value.items() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _read(text: str, file: str, tool: str) -> SourceConfig:
    if is_printed_config(text) and tool in ("auto", "orpo-config"):
        return SourceConfig("orpo-config", printed_arguments(text), class_name=class_name(text))
    if tool == "orpo-config":
        raise UsageError(f"{file}: contains no printed ORPOConfig(...).", remedy="Omit --from to detect the tool.")
    if is_command(text):
        command = _command(text, file)
        return replace(command, tool=_tool(command.values, file, tool))
    tree = read_yaml(text, file)
    values = plain_values(tree)
    lines = {format_path(path): node.origin.line or 1 for path, node in walk(tree)}
    return SourceConfig(_tool(values, file, tool), values, lines)


def _tool(values: Mapping[str, Any], file: str, tool: str) -> Tool:
    source_tool = _detect_tool(values) if tool == "auto" else cast(Tool, tool)
    if source_tool is None:
        raise UsageError(f"{file}: not recognized as a configuration of {', '.join(TOOLS)}.", remedy=_remedy(values))
    return source_tool


def _command(text: str, file: str) -> SourceConfig:
    try:
        arguments = split_command(text)
    except ValueError as error:
        raise UsageError(f"{file}: not a valid shell command: {error}.") from None
    launcher, arguments, launcher_name = split_launcher(arguments)
    values = parse_flags(arguments)
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        for name in values:
            if f"--{name}" in line or f"--{name.replace('_', '-')}" in line:
                lines.setdefault(name, number)
    script = next((argument for argument in arguments if argument.endswith(".py")), "")
    return SourceConfig("trl", values, lines, "", True, script, launcher, launcher_name)


def _detect_tool(values: Mapping[str, Any]) -> Tool | None:
    found = next((tool for key, tool in _TOOL_OF_KEY if key in values), None)
    # trl's script has no chat_template key.
    return "alignment-handbook" if found == "trl" and "chat_template" in values else found


def _remedy(values: Mapping[str, Any]) -> str:
    if isinstance(values.get("model"), dict) and isinstance(values.get("dataset"), dict):
        return "It looks like a recipe: check it with `orpo validate`."
    return "Set the tool with --from."
