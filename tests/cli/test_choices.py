"""Options with a fixed set of values: checked before anything is read, listed in the help, equal to the recipe's values."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from orpo_cli.cli.choices import ExportFormatChoice, GgufTypeChoice
from orpo_cli.recipe.schema import ExportFormat, GgufType

WRONG_CHOICES = [
    (("export", "run", "--format", "onnx"), ("--format", "safetensors", "gguf", "bnb-4bit", "bnb-8bit")),
    (("export", "run", "--gguf-type", "q9"), ("--gguf-type", "f16", "q4_k_m")),
    (("export", "run", "--dtype", "int8"), ("--dtype", "auto", "float32", "bfloat16", "float16")),
    (("merge", "run", "--dtype", "int8"), ("--dtype", "auto", "float32", "bfloat16", "float16")),
    (("merge", "run", "--into", "base"), ("--into", "trained", "original")),
    (("push-to-hub", "run", "--what", "adapter,tokenizer"), ("--what", "adapter", "merged", "model", "gguf", "all")),
    (("convert", "x.yml", "--from", "axlotl"), ("--from", "auto", "axolotl", "llama-factory", "trl", "ms-swift")),
    (("generate", "run", "--backend", "vlm"), ("--backend", "transformers", "vllm", "llama-cpp")),
    (("submit", "x.yml", "--to", "slum"), ("--to", "slurm", "skypilot", "dstack", "kubernetes")),
]


@pytest.mark.parametrize(("arguments", "named"), WRONG_CHOICES)
def test_a_wrong_choice_exits_2_and_lists_the_choices(
    arguments: tuple[str, ...], named: tuple[str, ...], orpo_here: Callable[..., Any]
) -> None:
    done = orpo_here(*arguments)
    assert done.returncode == 2
    assert "is not one of" in done.stderr
    assert "Value error" not in done.stderr
    for word in named:
        assert word in done.stderr


def test_choices_of_repeatable_options_are_those_of_the_recipe() -> None:
    assert tuple(ExportFormatChoice) == get_args(ExportFormat)
    assert tuple(GgufTypeChoice) == get_args(GgufType)


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("export run --gguf-type q4", ["q4_k_m", "q4_k_s"]),
        ("merge run --into o", ["original"]),
        ("push-to-hub run --what m", ["merged", "model"]),
        ("submit my.yaml --to s", ["slurm", "skypilot"]),
    ],
)
def test_the_shell_completes_choices(words: str, completions: list[str]) -> None:
    variables = {"COMP_WORDS": f"orpo {words}", "COMP_CWORD": "4", "_ORPO_COMPLETE": "complete_bash"}
    command = [str(Path(sys.executable).with_name("orpo"))]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == completions


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (("train", "quickstart", "--lr", "1e-4"), "changed with `--set training.learning_rate=VALUE`."),
        (("plan", "quickstart", "--lora-r", "8"), "changed with `--set lora.r=VALUE`."),
        (
            ("plan", "quickstart", "--set", "lora.r=8", "training.beta=1"),
            "Repeat --set for each value: `--set training.beta=1`.",
        ),
        (("train", "--recipe", "mine.yaml"), "See `orpo train --help`."),
        (("trian", "quickstart"), "See `orpo --help` and `orpo COMMAND --help`."),
    ],
)
def test_a_wrong_option_is_answered_with_the_command(orpo_here, words, remedy):
    done = orpo_here(*words)
    assert done.returncode == 2
    assert remedy in done.stderr


def test_the_choices_of_a_missing_option_are_one_line(orpo_here):
    assert "'--to'. Choose from: slurm, skypilot, dstack, kubernetes\n" in orpo_here("submit", "quickstart").stderr
