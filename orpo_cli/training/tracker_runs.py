"""Runs in trackers: how TensorBoard, W&B, MLflow, trackio and Comet begin a run, or continue that of a resumed training.

transformers' callbacks write to the run that is active. They would begin one themselves, without tags, under a new name after
each resumption, and W&B and Comet would ask for a key.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Config = dict[str, Any]


@dataclass(frozen=True)
class TrackedRun:
    """A training as trackers know it. ``id`` is the same for all attempts; ``from_step``: of this attempt."""

    name: str
    id: str  # 32 hexadecimal digits
    tags: list[str]
    project: str | None
    config: Config  # the plan without secrets
    folder: Path  # the run directory
    tensorboard: Path
    from_step: int = 0
    attempt: int = 1


@dataclass(frozen=True)
class StartedRun:
    """A run that a tracker has begun. ``message``: where to see it. ``warning``: what is missing, and the remedy."""

    message: str | None = None
    warning: str | None = None
    finish: Callable[[bool], None] = lambda failed: None  # gets whether the training has failed
    callback: dict[str, Any] = field(default_factory=dict)  # arguments of transformers' callback
    name: str | None = None  # in the tracker, where it differs
    config: Config | None = None  # as the tracker takes it, where it differs


def start_run(tracker: str, run: TrackedRun) -> StartedRun:
    """Begin or continue a run in ``tracker``; nothing for those whose run transformers' callback begins."""
    start = {
        "tensorboard": _start_tensorboard,
        "wandb": _start_wandb,
        "mlflow": _start_mlflow,
        "trackio": _start_trackio,
        "comet_ml": _start_comet,
    }.get(tracker)
    return StartedRun() if start is None else start(run)


def _start_tensorboard(run: TrackedRun) -> StartedRun:
    from torch.utils.tensorboard import SummaryWriter

    # Steps after the checkpoint are computed again: TensorBoard hides their first values.
    purge_step = run.from_step + 1 if run.attempt > 1 else None
    writer = SummaryWriter(log_dir=str(run.tensorboard), purge_step=purge_step)
    writer.add_text("name", run.name, run.from_step)
    if run.tags:
        writer.add_text("tags", ", ".join(run.tags), run.from_step)
    return StartedRun(f"`tensorboard --logdir {_shown(run.tensorboard)}` shows the run", callback={"tb_writer": writer})


def _start_wandb(run: TrackedRun) -> StartedRun:
    import wandb

    no_key = "WANDB_MODE" not in os.environ and not _wandb_login()
    settings: dict[str, Any] = {"silent": True}
    if "WANDB_CONSOLE" not in os.environ:
        settings["console"] = "off"  # the live table is redrawn many times; the run has its own log
    active = wandb.init(
        project=os.environ.get("WANDB_PROJECT") or run.project or "huggingface",
        name=run.name,
        id=os.environ.get("WANDB_RUN_ID") or run.id,
        resume="allow",
        tags=run.tags or None,
        dir=os.environ.get("WANDB_DIR") or str(run.folder),
        mode="offline" if no_key else None,
        settings=wandb.Settings(**settings),
    )
    sync = f"wandb sync {_shown(Path(active.dir).parent)}"
    return StartedRun(
        None if no_key else f"`{sync}` sends the run" if active.offline else f"the run is at {active.url}",
        f"has no API key and records the run offline; `wandb login`, then `{sync}` sends it" if no_key else None,
        lambda failed: wandb.finish(exit_code=int(failed)),
    )


def _wandb_login() -> bool:
    """Whether W&B has a key. It does not ask for one."""
    import wandb

    try:
        return bool(wandb.login(prompt=False))
    except TypeError:  # a version without this argument
        return bool(wandb.api.api_key)


def _start_mlflow(run: TrackedRun) -> StartedRun:
    import mlflow

    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or run.project
    if experiment:
        mlflow.set_experiment(experiment)
    run_id, found = os.environ.get("MLFLOW_RUN_ID"), []
    if run_id is None and run.attempt > 1:
        wanted = f"tags.orpo_run = '{run.id}'"
        found = mlflow.search_runs(filter_string=wanted, output_format="list", max_results=1)
        run_id = found[0].info.run_id if found else None
    tags = {"orpo_run": run.id, **dict.fromkeys(run.tags, "true")}
    active = mlflow.start_run(run_id=run_id, run_name=run.name, tags=tags)
    uri = mlflow.get_tracking_uri()
    local = uri.startswith(("file:", "sqlite:", "/")) or "://" not in uri
    address = f"{uri}/#/experiments/{active.info.experiment_id}/runs/{active.info.run_id}"
    return StartedRun(
        f"`mlflow ui --backend-store-uri {uri}` shows the run" if local else f"the run is at {address}",
        finish=lambda failed: mlflow.end_run("FAILED" if failed else "FINISHED"),
        config={} if found else flatten(run.config),  # a parameter cannot change, and is already recorded
    )


def _start_trackio(run: TrackedRun) -> StartedRun:
    """trackio continues a run by its name, which another training may have too."""
    project = run.project or "huggingface"
    name = run.name if run.config["training"].get("run_name") else f"{run.name}-{run.id[:6]}"
    config = {**flatten(run.config), **({"tags": ", ".join(run.tags)} if run.tags else {})}
    return StartedRun(f"`trackio show --project {project}` shows the run", name=name, config=config)


def _start_comet(run: TrackedRun) -> StartedRun:
    import comet_ml

    if "COMET_LOGGING_CONSOLE" not in os.environ:
        logging.getLogger("comet_ml").setLevel(logging.ERROR)  # it warns of long values and of the order of imports
    offline = "COMET_START_ONLINE" not in os.environ and not comet_ml.config.get_api_key(None, comet_ml.get_config())
    # One for each attempt: its archive replaces another one of the same experiment.
    folder = os.environ.get("COMET_OFFLINE_DIRECTORY") or str(run.folder / "comet" / f"attempt-{run.attempt}")
    if offline:
        Path(folder).mkdir(parents=True, exist_ok=True)
    experiment = comet_ml.start(
        project_name=os.environ.get("COMET_PROJECT_NAME") or run.project,
        experiment_key=os.environ.get("COMET_EXPERIMENT_KEY") or run.id,
        online=False if offline else None,
        experiment_config=comet_ml.ExperimentConfig(
            name=run.name, tags=run.tags, offline_directory=folder, display_summary_level=0
        ),
    )
    return StartedRun(
        None if offline else f"the run is at {experiment.url}",
        f"has no API key and records the experiment offline; `comet upload {_shown(Path(folder))}/*.zip` sends it"
        if offline
        else None,
        lambda failed: experiment.end(),
        config=flatten(run.config),
    )


def flatten(config: Mapping[str, Any], prefix: str = "") -> Config:
    """Nested values by their dotted names, as ``--set`` writes them."""
    flat: Config = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _shown(path: Path) -> str:
    """The path in a command, from the current directory where it is below it."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
