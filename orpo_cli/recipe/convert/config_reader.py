"""Source configuration: its format (YAML, JSON, shell command, printed ``ORPOConfig(...)``), its tool and its keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import Any, Literal, cast, get_args

from orpo_cli.errors import UsageError
from orpo_cli.recipe.convert.command_line import is_command, is_flag, misspelt_flags, parse_flags
from orpo_cli.recipe.convert.draft import mask_secrets
from orpo_cli.recipe.convert.launch.launcher_command import split_launcher
from orpo_cli.recipe.convert.launch.referenced_file import read_mapping
from orpo_cli.recipe.convert.printed_config.orpo_config_repr import class_name, is_printed_config, printed_arguments
from orpo_cli.recipe.convert.program import config_file, find_program, method_in_name
from orpo_cli.recipe.convert.shell_script import ShellCommand, ShellScript, read_script
from orpo_cli.recipe.source.nodes import format_path, plain_values, walk
from orpo_cli.recipe.source.yaml_reader import FORBIDDEN_CHARACTERS, read_yaml

Tool = Literal[
    "axolotl", "llama-factory", "alignment-handbook", "trl", "ms-swift", "autotrain", "mlx-lm", "orpo-config",
    "accelerate", "deepspeed",
]  # fmt: skip
TOOLS: tuple[str, ...] = get_args(Tool)

# Keys that only one tool has. The first key in this table that a file has determines its tool.
_TOOL_OF_KEY: tuple[tuple[str, Tool], ...] = (
    ("rlhf_type", "ms-swift"),
    ("project_name", "autotrain"),
    ("train_mode", "mlx-lm"),
    ("fine_tune_type", "mlx-lm"),
    ("lora_parameters", "mlx-lm"),
    ("steps_per_report", "mlx-lm"),
    ("base_model", "axolotl"),
    ("rl", "axolotl"),
    ("micro_batch_size", "axolotl"),
    ("sequence_len", "axolotl"),
    ("pref_loss", "llama-factory"),
    ("finetuning_type", "llama-factory"),
    ("stage", "llama-factory"),
    ("cutoff_len", "llama-factory"),
    ("lora_target", "llama-factory"),
    ("dataset_dir", "llama-factory"),
    ("tuner_type", "ms-swift"),
    ("train_type", "ms-swift"),
    ("split_dataset_ratio", "ms-swift"),
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
    other_method: str = ""  # how the program says that it trains with another method than ORPO
    remarks: tuple[str, ...] = ()


def read_source(text: str, file: str, tool: str = "auto", folders: Sequence[FilePath] = ()) -> SourceConfig:
    """Read ``text``, the content of ``file``. ``tool`` is ``auto`` or a name of ``TOOLS``.

    ``folders`` are searched for a configuration that a command reads.

    Raises RecipeError if it is not valid YAML, UsageError if it is not a configuration of ``tool`` or of any known tool.
    """
    source = _read(text, file, tool, folders)
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


def _read(text: str, file: str, tool: str, folders: Sequence[FilePath]) -> SourceConfig:
    if is_printed_config(text) and tool in ("auto", "orpo-config"):
        return SourceConfig("orpo-config", printed_arguments(text), class_name=class_name(text))
    if tool == "orpo-config":
        raise UsageError(f"{file}: contains no printed ORPOConfig(...).", remedy="Omit --from to detect the tool.")
    if is_command(text):
        return _command(text, file, tool, folders)
    tree = read_yaml(text, file)
    values = plain_values(tree)
    lines = {format_path(path): node.origin.line or 1 for path, node in walk(tree)}
    return SourceConfig(_tool(values, file, tool), values, lines)


def _tool(values: Mapping[str, Any], file: str, tool: str) -> Tool:
    source_tool = _detect_tool(values) if tool == "auto" else cast(Tool, tool)
    if source_tool is None:
        raise UsageError(f"{file}: not recognized as a configuration of {', '.join(TOOLS)}.", remedy=_remedy(values))
    return source_tool


def _command(text: str, file: str, tool: str, folders: Sequence[FilePath]) -> SourceConfig:
    try:
        script = read_script(text)
    except ValueError as error:
        raise UsageError(f"{file}: not a valid shell command: {error}.") from None
    command, others = _training_command(script)
    launcher, arguments, launcher_name = split_launcher(list(command.words))
    program = find_program(arguments)
    if program is not None and "-c" in arguments[:-1]:
        position = arguments.index("-c")
        arguments[position : position + 2] = ["--config", arguments[position + 1]]
    values = parse_flags(arguments)
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines()[: command.last_line], start=1):
        for name in values if number >= command.first_line else ():
            if f"--{name}" in line or f"--{name.replace('_', '-')}" in line:
                lines.setdefault(name, number)
    remarks = _command_remarks(command, script, others, arguments)
    if program is not None and (named := config_file(arguments)) is not None:
        values = {**_read_config_file(named, file, folders), **_settings(arguments), **values}
        values.pop("config", None)
        remarks.append(
            f"The command reads {named}: its settings are converted, and flags of the command have precedence."
        )
    if tool == "auto" and program is not None and program.tool is not None:
        tool = "alignment-handbook" if program.tool == "trl" and "chat_template" in values else program.tool
    path = next((argument for argument in arguments if argument.endswith(".py")), "")
    other_method = program.other_method if program is not None else ""
    source = SourceConfig("trl", values, lines, "", True, path, launcher, launcher_name, other_method, tuple(remarks))
    if tool == "auto" and _detect_tool(values) is None and (other := _method_of_words(command.words)):
        return replace(source, other_method=other)
    return replace(source, tool=_tool(values, file, tool))


def _method_of_words(words: Sequence[str]) -> str:
    """How a command of a tool that is not known says its method: `tune run lora_dpo_single_device`, `openrlhf.cli.train_dpo`."""
    found = next(((word, method) for word in words if (method := method_in_name(word))), None)
    return f"`{found[0]}` trains with another method, {found[1]}" if found else ""


def _training_command(script: ShellScript) -> tuple[ShellCommand, list[ShellCommand]]:
    """Command that trains, and the others that do: one that names ORPO has precedence, else the first one."""
    training = [command for command in script.commands if _trains(command)]
    training = training or [command for command in script.commands if any(map(is_flag, command.words))]
    if not training:
        return ShellCommand((), 1, 1), []
    chosen = next((each for each in training if any("orpo" in word.lower() for word in each.words)), training[0])
    return chosen, [each for each in training if each is not chosen]


def _trains(command: ShellCommand) -> bool:
    arguments = split_launcher(list(command.words))[1]
    program = find_program(arguments)
    return (program is not None and program.tool is not None) or _detect_tool(parse_flags(arguments)) is not None


def _command_remarks(
    command: ShellCommand, script: ShellScript, others: Sequence[ShellCommand], arguments: Sequence[str]
) -> list[str]:
    remarks = []
    if others:
        lines = ", ".join(str(each.first_line) for each in others)
        remarks.append(
            f"The command on line {command.first_line} is converted; other training commands are on line {lines}."
        )
    used = {name: value for name, value in script.defaults.items() if value}
    if used:
        defaults = ", ".join(f"{name}={mask_secrets(name, value)}" for name, value in used.items())
        remarks.append(f"Defaults of unset shell variables are used: {defaults}.")
    if command.comment_lines:
        lines = ", ".join(map(str, command.comment_lines))
        remarks.append(
            f"A shell ends the command at the comment on line {lines}; the flags below it are converted, too."
        )
    if misspelt := misspelt_flags(arguments):
        remarks.append(f"Not a valid flag, read without its colon or with two hyphens: {', '.join(misspelt)}.")
    return remarks


def _read_config_file(name: str, file: str, folders: Sequence[FilePath]) -> dict[str, Any]:
    """Content of the configuration ``name`` that the command in ``file`` reads. Raises UsageError if it cannot be read."""
    found = read_mapping(name, folders, [key for key, _ in _TOOL_OF_KEY])
    if isinstance(found, str):
        raise UsageError(
            f"{file}: the command reads its settings from {name}. {found}.", remedy=f"Convert {name} itself."
        )
    return found


def _settings(arguments: Sequence[str]) -> dict[str, Any]:
    """Settings ``key=value`` before the first flag, as LLaMA-Factory reads them."""
    before = arguments[: next((index for index, word in enumerate(arguments) if is_flag(word)), len(arguments))]
    return parse_flags([f"--{word}" for word in before[1:] if "=" in word])


def _detect_tool(values: Mapping[str, Any]) -> Tool | None:
    found = next((tool for key, tool in _TOOL_OF_KEY if key in values), None)
    # trl's script has no chat_template key.
    return "alignment-handbook" if found == "trl" and "chat_template" in values else found


def _remedy(values: Mapping[str, Any]) -> str:
    if isinstance(values.get("model"), dict) and isinstance(values.get("dataset"), dict):
        return "It looks like a recipe: check it with `orpo validate`."
    return "Set the tool with --from."
