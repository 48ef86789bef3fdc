"""Training programs: the tool of a command, the method in its name, and the configuration file that it reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import PurePosixPath
from typing import NamedTuple

from orpo_cli.recipe.convert.command_line import is_flag

# Name of the program or module: its tool, and the subcommands that train.
PROGRAMS = {
    "swift": ("ms-swift", ("rlhf", "sft", "pt")),
    "llamafactory-cli": ("llama-factory", ("train",)),
    "axolotl": ("axolotl", ("train",)),
    "autotrain": ("autotrain", ("llm",)),
    "aitraining": ("autotrain", ("llm",)),
    "trl": ("trl", ("orpo", "sft", "dpo", "kto", "cpo", "grpo", "reward", "rloo")),
    "mlx_lm_lora.train": ("mlx-lm", ()),
    "mlx_lm.lora": ("mlx-lm", ()),
    "axolotl.cli.train": ("axolotl", ()),
    "llamafactory.cli": ("llama-factory", ("train",)),
}
# End of the path of a script: its tool.
SCRIPTS = (
    (re.compile(r"(?:^|/)(?:src/train|train_bash|llamafactory/launcher)\.py$"), "llama-factory"),
    (re.compile(r"(?:^|/)swift/cli/(?:rlhf|sft)\.py$"), "ms-swift"),
)
METHODS = (
    "sft", "dpo", "kto", "cpo", "ppo", "grpo", "rloo", "bco", "gkd", "xpo", "simpo", "ipo", "reward", "rm", "prm",
    "pretrain", "pt", "online_dpo", "nash_md",
)  # fmt: skip
_CONFIG = re.compile(r".*\.(?:ya?ml|json)", re.IGNORECASE)


class Program(NamedTuple):
    """Program of a command. ``other_method``: how its name says that it trains with another method than ORPO."""

    tool: str | None
    other_method: str = ""


def find_program(words: Sequence[str]) -> Program | None:
    """Program that trains in the words of a command, without its launcher; None for another program."""
    for index, word in enumerate(words):
        if is_flag(word):
            break
        name = word.rpartition("/")[2]
        if name in PROGRAMS:
            tool, subcommands = PROGRAMS[name]
            subcommand = next((each for each in words[index + 1 :] if not is_flag(each)), "")
            if subcommands and subcommand not in subcommands and not (tool == "autotrain" and "--config" in words):
                return None
            return Program(tool, _other_method(tool, name, subcommand if subcommands else ""))
        if word.endswith(".py"):
            script_tool = next((tool for pattern, tool in SCRIPTS if pattern.search(word)), None)
            return Program(script_tool, "" if script_tool else _method_of_script(word))
    return None


def config_file(words: Sequence[str]) -> str | None:
    """Configuration file that the program reads: the value of ``--config``, or a file before the first flag."""
    for index, word in enumerate(words):
        if word in ("--config", "-c") and index + 1 < len(words):
            return words[index + 1]
        if word.startswith("--config="):
            return word.partition("=")[2]
    before = words[: next((index for index, word in enumerate(words) if is_flag(word)), len(words))]
    return next((word for word in before if _CONFIG.fullmatch(word)), None)


def method_in_name(name: str) -> str:
    """Method other than ORPO in a name such as ``zephyr-7b-dpo-full``; empty if there is none."""
    parts = re.split(r"[^a-z0-9]+", name.lower())
    joined = [f"{first}_{second}" for first, second in pairwise(parts)]
    return "" if "orpo" in parts else next((part for part in (*joined, *parts) if part in METHODS), "")


def _other_method(tool: str, name: str, subcommand: str) -> str:
    if name == "mlx_lm.lora":
        return f"`{name}` trains only by supervised fine-tuning"
    if (tool == "ms-swift" and subcommand != "rlhf") or (tool == "trl" and subcommand != "orpo"):
        return f"`{name} {subcommand}` trains with another method"
    return ""


def _method_of_script(path: str) -> str:
    method = method_in_name(PurePosixPath(path).stem)
    return f"`{path}` trains with another method, {method}" if method else ""
