"""Installation check (`orpo doctor`): installed packages against their requirements, machine, and access to the hub."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from orpo_cli.cache_dir import cache_dir
from orpo_cli.errors import MachineError
from orpo_cli.machine import Machine, probe
from orpo_cli.recipe.load import LoadedRecipe
from orpo_cli.training.provenance import installed_version
from orpo_cli.workflows.recipe_needs import Need, recipe_needs

EXTRAS = {  # the optional extras of orpo-cli, and what each is for
    "gguf": "models in .gguf files, such as the quickstart's",
    "llama-cpp": "running the .gguf files that orpo export writes",
    "wandb": "report_to: wandb",
    "tensorboard": "report_to: tensorboard",
    "deepspeed": "launch.strategy: deepspeed",
    "optuna": "orpo sweep --sampler tpe",
    "benchmark": "orpo benchmark --task ifeval and lm_eval:NAME",
    "quickstart": "the model of orpo quickstart, which installs it",
}


@dataclass(frozen=True)
class Package:
    """A package that orpo-cli requires, and its installed version."""

    name: str
    wanted: str  # version specifier, such as ==1.16.0
    installed: str | None
    options: str = ""  # of pip

    @property
    def satisfied(self) -> bool:
        """Whether a version that meets the requirement is installed."""
        from packaging.specifiers import SpecifierSet  # comes with huggingface_hub

        return self.installed is not None and SpecifierSet(self.wanted).contains(self.installed, prereleases=True)

    @property
    def command(self) -> str:
        """The command that installs it."""
        return f"{sys.executable} -m {self.pip_command}"

    @property
    def pip_command(self) -> str:
        """The same for the environment of the shell."""
        return f"pip install {self.options}'{self.name}{self.wanted}'"

    @property
    def complaint(self) -> str:
        """What is wrong where it is not satisfied."""
        if self.installed is None:
            return f"{self.name} is missing (required: {self.wanted or 'any version'})."
        return f"{self.name} {self.installed} is installed, but {self.wanted} is required."

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        values = asdict(self)
        del values["options"]
        return {**values, "held": self.satisfied, "command": None if self.satisfied else self.command}


@dataclass(frozen=True)
class Diagnosis:
    """What `orpo doctor` found. ``problems``: message and remedy of what prevents training. ``recipe``: what a recipe needs."""

    packages: list[Package]
    optional: dict[str, list[Package]]  # by extra
    machine: Machine | None  # None where torch cannot be imported
    hub: dict[str, Any]
    cache: dict[str, Any]  # directory of orpo-cli itself
    problems: list[dict[str, str]]
    recipe: list[Need] | None = None


def diagnose(loaded: LoadedRecipe | None = None) -> Diagnosis:
    """Check packages, machine, hub access, and the needs of a recipe. Raises MachineError where orpo-cli is not installed."""
    requirements = _requirements()
    packages = required_packages(requirements)
    optional = {extra: required_packages(requirements, extra) for extra in EXTRAS}
    optional["quickstart"] = [_quickstart_model()]
    problems = [{"message": each.complaint, "remedy": each.command} for each in packages if not each.satisfied]
    machine: Machine | None = None
    try:
        import torch  # noqa: F401  # also where `probe` does not need it

        machine = probe()
    except (ImportError, OSError) as error:  # missing, or built for another machine
        remedy = "Install torch again in this environment."
        problems.append({"message": f"torch cannot be used: {error}", "remedy": remedy})
    hub = _hub_state()
    needs = None if loaded is None else recipe_needs(loaded, has_token=hub["token"])
    for need in needs or ():
        if need.remedy is not None:
            problems.append({"message": f"{need.path}: {need.value} needs {need.needs}.", "remedy": need.remedy})
    return Diagnosis(packages, optional, machine, hub, _cache_state(), problems, needs)


def _requirements() -> list[str]:
    try:
        return metadata.requires("orpo-cli") or []
    except metadata.PackageNotFoundError:
        raise MachineError(
            "orpo-cli is not installed in this environment, so its requirements are unknown.",
            remedy=f"In its folder: {sys.executable} -m pip install -e .",
        ) from None


def required_packages(requirements: Sequence[str], extra: str = "") -> list[Package]:
    """The packages that ``requirements`` (lines of a package's metadata) name for this platform, sorted by name.

    Without ``extra`` the required ones, with it those that this optional extra adds.
    """
    from packaging.requirements import Requirement

    found = []
    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        wanted = always if not extra else not always and marker is not None and marker.evaluate({"extra": extra})
        if wanted:
            found.append(Package(requirement.name, str(requirement.specifier), installed_version(requirement.name)))
    return sorted(found, key=lambda package: package.name)


def _quickstart_model() -> Package:
    """The package of the quickstart's model: no requirement of an extra, since it is installed without its own requirements."""
    from orpo_cli.workflows.quickstart import MODEL_REQUIREMENT

    name, _, version = MODEL_REQUIREMENT.partition("==")
    return Package(name, f"=={version}", installed_version(name), "--no-deps ")


def _cache_state() -> dict[str, Any]:
    """Path (None where the user has no home directory) and size of the cache directory, without files that vanish meanwhile."""
    try:
        size, path = 0, cache_dir()
    except RuntimeError:
        return {"path": None, "bytes": 0}
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(OSError):
                size += os.lstat(os.path.join(folder, name)).st_size
    return {"path": str(path), "bytes": size}


def _hub_state() -> dict[str, Any]:
    """Whether there is a hub token (never the token itself), the download cache, and whether the hub is switched off."""
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
