"""``orpo doctor``: versions, devices, what is missing and how to get it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import typer
from rich.text import Text

from orpo_cli import __version__
from orpo_cli.cli.options import Json
from orpo_cli.errors import MachineError
from orpo_cli.machine import Machine, probe
from orpo_cli.report.console import Console

OPTIONAL = {  # the optional parts of orpo-cli, and what each is for
    "gguf": "models in .gguf files, such as the quickstart's",
    "llama-cpp": "running the .gguf files that orpo export makes",
    "wandb": "report_to: wandb",
    "tensorboard": "report_to: tensorboard",
}
GIB = 1024**3


@dataclass(frozen=True)
class Package:
    """A package that orpo-cli names, and what is installed of it."""

    name: str
    wanted: str  # version specifier, such as ==1.16.0
    installed: str | None

    @property
    def held(self) -> bool:
        """Whether it is installed, in a version that is wanted."""
        from packaging.specifiers import SpecifierSet  # comes with huggingface_hub

        return self.installed is not None and SpecifierSet(self.wanted).contains(self.installed, prereleases=True)

    @property
    def command(self) -> str:
        """What gets it."""
        return f"{sys.executable} -m pip install '{self.name}{self.wanted}'"

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {**asdict(self), "held": self.held, "command": None if self.held else self.command}


def command(as_json: Json = False) -> None:
    """Show versions, devices, what is missing and how to get it.

    Exits 0 when training can run here, 3 when a required package is missing or of a version that is not wanted.

    [bold]Examples[/bold]

      orpo doctor
      orpo doctor --json
    """
    console = Console(as_json=as_json)
    requirements = _requirements()
    required = wanted_packages(requirements)
    optional = {extra: wanted_packages(requirements, extra) for extra in OPTIONAL}
    problems = [(_complaint(package), package.command) for package in required if not package.held]
    machine: Machine | None = None
    try:
        machine = probe()
    except (ImportError, OSError) as error:  # missing, or built for another machine
        problems.append((f"torch cannot be used: {error}", "Install torch again in this environment."))
    hub = hub_state()

    console.result(_overview(required, optional, machine, hub))
    for what, remedy in problems:
        console.err.print(f"error: {what}\n  → {remedy}", markup=False)
    console.result(Text("Training cannot run here." if problems else "Training can run here.", style="bold"))
    console.document(
        {
            "status": MachineError.kind if problems else "ok",
            "exit_code": MachineError.exit_code if problems else 0,
            "orpo_cli": __version__,
            "packages": [package.as_dict() for package in required],
            "optional": {extra: [package.as_dict() for package in packages] for extra, packages in optional.items()},
            "machine": asdict(machine) if machine else None,
            "hub": hub,
            "problems": [{"message": what, "remedy": remedy} for what, remedy in problems],
        }
    )
    if problems:
        raise typer.Exit(MachineError.exit_code)


def _requirements() -> list[str]:
    try:
        return metadata.requires("orpo-cli") or []
    except metadata.PackageNotFoundError:
        raise MachineError(
            "orpo-cli is not installed in this environment, so nothing says what it needs.",
            remedy=f"In its folder: {sys.executable} -m pip install -e .",
        ) from None


def wanted_packages(requirements: Sequence[str], extra: str = "") -> list[Package]:
    """The packages that ``requirements`` (lines of a package's metadata) name for this platform: the required ones,
    or those that the optional part ``extra`` adds. By name.
    """
    from packaging.requirements import Requirement

    found = []
    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        wanted = always if not extra else not always and marker is not None and marker.evaluate({"extra": extra})
        if wanted:
            found.append(Package(requirement.name, str(requirement.specifier), _installed(requirement.name)))
    return sorted(found, key=lambda package: package.name)


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def hub_state() -> dict[str, Any]:
    """Whether there is a hub token (never which), where downloads are kept, and whether the hub is switched off."""
    try:
        from huggingface_hub import constants, get_token
    except ImportError:
        return {"token": False, "cache": None, "cache_free_bytes": None, "offline": False}
    cache = Path(constants.HF_HUB_CACHE).absolute()
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    return {
        "token": get_token() is not None,
        "cache": str(cache),
        "cache_free_bytes": shutil.disk_usage(existing).free,
        "offline": bool(constants.HF_HUB_OFFLINE),
    }


def _complaint(package: Package) -> str:
    if package.installed is None:
        return f"{package.name} is missing (wanted: {package.wanted or 'any version'})."
    return f"{package.name} {package.installed} is installed, but {package.wanted} is wanted."


def _overview(
    required: Sequence[Package], optional: dict[str, list[Package]], machine: Machine | None, hub: dict[str, Any]
) -> Text:
    rows = [("orpo-cli", __version__)]
    if machine:
        rows.append(("python", f"{machine.python} on {machine.platform}"))
    for package in required:
        pin = f", pinned {package.wanted}: {'held' if package.held else 'not held'}" if "==" in package.wanted else ""
        rows.append((package.name, (package.installed or "missing") + pin))
    for extra, packages in optional.items():
        for package in packages:
            state = package.installed if package.held else f"not there: pip install '{package.name}{package.wanted}'"
            rows.append((package.name, f"{state} (for {OPTIONAL[extra]})"))
    if machine:
        rows += _machine_rows(machine)
    if hub["cache"]:
        rows.append(
            ("hub token", "found" if hub["token"] else "none; where one is needed: HF_TOKEN or `hf auth login`")
        )
        rows.append(("hub cache", f"{hub['cache']}, {hub['cache_free_bytes'] / GIB:.0f} GiB free"))
        if hub["offline"]:
            rows.append(("hub", "switched off by HF_HUB_OFFLINE"))
    width = max(len(name) for name, _ in rows)
    return Text("\n").join(Text.assemble((f"{name:{width}}", "bold"), "  ", value) for name, value in rows)


def _machine_rows(machine: Machine) -> list[tuple[str, str]]:
    memory = f", {machine.device_memory_bytes / GIB:.0f} GiB each" if machine.device_memory_bytes else ""
    count = f"{machine.device_count} x " if machine.device != "cpu" else ""
    return [
        ("device", f"{machine.device}: {count}{machine.device_name}{memory}"),
        ("cpu cores", str(machine.cpu_count)),
        ("memory", f"{machine.ram_bytes / GIB:.0f} GiB"),
        ("free disk", f"{machine.free_disk_bytes / GIB:.0f} GiB in this folder"),
        ("bfloat16", "yes" if machine.bf16 else "no"),
        ("flash attention", "yes" if machine.flash_attention else "no"),
    ]
