"""Training as a job of a cluster: the command that every target runs, and the machines it needs."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from orpo_cli.errors import UsageError
from orpo_cli.recipe.load import LoadedRecipe
from orpo_cli.recipe.schema import LaunchSection
from orpo_cli.recipe.schema.clusters import KubernetesSection, SlurmSection
from orpo_cli.recipe.source.nodes import walk
from orpo_cli.recipe.source.recipe_files import STANDARD_INPUT

FIRST_PORT = 29500  # torch's and accelerate's


@dataclass(frozen=True)
class TrainJob:
    """A recipe to train on a cluster. ``recipe`` is an absolute path or the name of a shipped recipe."""

    loaded: LoadedRecipe
    recipe: str
    directory: Path  # in which the paths of the recipe are resolved

    @classmethod
    def from_recipe(cls, loaded: LoadedRecipe, source: str) -> TrainJob:
        """The job of the recipe that was loaded from ``source``. Raises UsageError for standard input, which a job does not have."""
        if loaded.file == STANDARD_INPUT:
            raise UsageError(
                "a job cannot read a recipe from standard input.", remedy="Write it to a file, and give its path."
            )
        # not resolve(): a link may lead out of a directory that is the same on every machine
        return cls(loaded, os.path.abspath(source) if Path(source).is_file() else source, Path.cwd())

    @property
    def launch(self) -> LaunchSection:
        """The launch section of the recipe."""
        return self.loaded.recipe.launch

    @property
    def slurm(self) -> SlurmSection:
        """The job of Slurm; with its defaults where the recipe has none."""
        return self.launch.slurm or SlurmSection()

    @property
    def kubernetes(self) -> KubernetesSection:
        """The job of Kubernetes; with its defaults where the recipe has none."""
        return self.launch.kubernetes or KubernetesSection()

    @property
    def needs_gpus(self) -> bool:
        """Whether the recipe trains on GPUs where there are any."""
        return not self.loaded.recipe.training.use_cpu

    @property
    def processes_per_machine(self) -> int | None:
        """Processes of a machine; None where each machine decides by its GPUs."""
        launch = self.launch
        return None if launch.num_processes == "auto" else launch.num_processes // launch.num_machines

    def arguments(self, *changes: str, recipe: str | None = None) -> list[str]:
        """The arguments of `orpo`: this training, resumed if it was begun, with more overrides."""
        options = [word for override in (*self.loaded.overrides, *changes) for word in ("--set", override)]
        return ["train", recipe or self.recipe, *options, "--resume", "auto"]

    def remote_command(self, machine_rank: str) -> str:
        """The shell command on another machine that has a copy of the current directory.

        ``machine_rank``: a shell expression for the number of the machine. Raises UsageError for a recipe elsewhere.
        """
        recipe = self.recipe
        if Path(recipe).is_absolute():
            if not Path(recipe).is_relative_to(self.directory):
                raise UsageError(
                    f"{recipe} is not in the current directory, which is what the machines get.",
                    remedy="Run the command in a directory that contains the recipe and its data.",
                )
            recipe = str(Path(recipe).relative_to(self.directory))
        command = shlex.join(["orpo", *self.arguments(recipe=recipe)])
        return f'{command} --set "launch.machine_rank={machine_rank}"' if self.launch.num_machines > 1 else command

    def variables(self) -> list[str]:
        """The environment variables that the training reads: those of the recipe, and a token of the hub that is set here."""
        names = {name for _, node in walk(self.loaded.source_map.root) for name in node.origin.variables}
        return sorted(names | ({"HF_TOKEN"} & os.environ.keys()))

    def resource_name(self) -> str:
        """The name of the recipe in the letters that Kubernetes, SkyPilot and dstack accept."""
        name = re.sub(r"[^a-z0-9]+", "-", self.loaded.name.lower())
        return f"orpo-{name.strip('-')[:35]}".rstrip("-") if not re.match("[a-z].", name) else name[:40].rstrip("-")
