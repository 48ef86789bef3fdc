"""`orpo doctor`: versions, devices, and how to install what is missing."""

from __future__ import annotations

import textwrap
from typing import Annotated

import typer
from rich.text import Text

from orpo_cli import __version__
from orpo_cli.cli.completion import complete_recipe
from orpo_cli.cli.options import Json, Overrides
from orpo_cli.errors import MachineError, UsageError
from orpo_cli.machine import Machine
from orpo_cli.report.console import Console
from orpo_cli.workflows.doctor import EXTRAS, Diagnosis, diagnose
from orpo_cli.workflows.plan import load_recipe_reporting


def command(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="[RECIPE]",
            autocompletion=complete_recipe,
            help="Also check the packages and the access that this recipe needs.",
        ),
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Show versions and devices, what is missing, and how to install it.

    Exits with 0 if training can run here, and with 3 if a package is missing or
    has another version than required. With a recipe, its trackers, optimizer,
    model format and data are checked too; `orpo plan` checks memory and devices.
    Add the output of --json to a bug report: it contains no secret.

    [bold]Examples[/bold]

      orpo doctor
      orpo doctor my.yaml
      orpo doctor --json
    """
    console = Console(as_json=as_json)
    if overrides and recipe is None:
        raise UsageError("--set needs a recipe.", remedy="Give one, or leave --set out.")
    loaded = None if recipe is None else load_recipe_reporting(recipe, overrides, console, strict=False)
    diagnosis = diagnose(loaded)
    console.result(_overview(diagnosis, console.out.width if console.out.is_terminal else None))
    for problem in diagnosis.problems:
        console.print_line(f"error: {problem['message']}")
        console.print_line(f"  → {problem['remedy']}")
    console.result(Text("Training cannot run here." if diagnosis.problems else "Training can run here.", style="bold"))
    status, exit_code = (MachineError.kind, MachineError.exit_code) if diagnosis.problems else ("ok", 0)
    console.document({"status": status, "exit_code": exit_code, "orpo_cli": __version__, **vars(diagnosis)})
    raise typer.Exit(exit_code)


def _overview(diagnosis: Diagnosis, columns: int | None) -> Text:
    """A row per fact; on a terminal of ``columns`` its lines end between words."""
    machine, hub = diagnosis.machine, diagnosis.hub
    rows = [("orpo-cli", __version__)]
    if machine:
        rows.append(("python", f"{machine.python} on {machine.platform}"))
    for package in diagnosis.packages:
        state = "installed" if package.satisfied else "not installed"
        pin = f", pinned {package.wanted}: {state}" if "==" in package.wanted else ""
        rows.append((package.name, (package.installed or "missing") + pin))
    for extra, packages in diagnosis.optional.items():
        for package in packages:
            missing = f"not installed: {package.pip_command}"
            rows.append((package.name, f"{package.installed if package.satisfied else missing} (for {EXTRAS[extra]})"))
    if machine:
        rows += _machine_rows(machine)
    for need in diagnosis.recipe or ():
        rows.append((need.path, f"{need.value} needs {need.needs}: {'found' if need.remedy is None else 'missing'}"))
    cache = diagnosis.cache
    if cache["path"]:
        size = f"{cache['bytes'] / 1e6:,.0f} MB"
        kept = "you may delete all but `models` and `datasets`, which runs may need"
        rows.append(("cache", f"{cache['path']}, {size} ({kept})"))
    if hub["cache"]:
        rows.append(("hub token", "found" if hub["token"] else "none; if you need one: HF_TOKEN or `hf auth login`"))
        rows.append(("hub cache", f"{hub['cache']}, {hub['cache_free_bytes'] / 1e9:.0f} GB free"))
        if hub["offline"]:
            rows.append(("hub", "switched off by HF_HUB_OFFLINE"))
    width = max(len(name) for name, _ in rows) + 2
    if columns is not None:
        rows = [(name, _wrap(value, columns - 1 - width, " " * width)) for name, value in rows]
    return Text("\n").join(Text.assemble((f"{name:{width}}", "bold"), value) for name, value in rows)


def _wrap(text: str, width: int, indent: str) -> str:
    lines = textwrap.wrap(text, max(20, width), break_long_words=False, break_on_hyphens=False)
    return f"\n{indent}".join(lines)


def _machine_rows(machine: Machine) -> list[tuple[str, str]]:
    memory = f", {machine.device_memory_bytes / 1e9:.0f} GB each" if machine.device_memory_bytes else ""
    count = f"{machine.device_count} x " if machine.device != "cpu" else ""
    return [
        ("device", f"{machine.device}: {count}{machine.device_name}{memory}"),
        ("cpu cores", str(machine.cpu_count)),
        ("memory", f"{machine.ram_bytes / 1e9:.0f} GB"),
        ("free disk", f"{machine.free_disk_bytes / 1e9:.0f} GB in this folder"),
        ("bfloat16", "yes" if machine.bf16 else "no"),
        ("flash attention", "yes" if machine.flash_attention else "no"),
    ]
