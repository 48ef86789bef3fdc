"""Resume policy: which checkpoint a run continues from, and which settings may have changed.

``checkpoint_writer`` writes checkpoints and removes incomplete ones; ``RunDir`` finds the last one.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

from orpo_cli.atomic import unused_name
from orpo_cli.checkpoint_manifest import MANIFEST, checkpoint_step, find_checkpoints, read_manifest
from orpo_cli.errors import DataError, UsageError
from orpo_cli.planning.plan import Plan
from orpo_cli.recipe.schema import Source
from orpo_cli.rundir import RunDir
from orpo_cli.training.moved_inputs import follow_moves, is_gone, restore_gone_paths
from orpo_cli.training.resumed_step import ACCUMULATION, PAIRS, process_obstacle

# Settings, or prefixes of their names, that may differ in a resumed run: they change neither the steps nor their order. With the same pairs of a step,
# gradient_accumulation_steps may, too.
CHANGEABLE = (
    "name", "tags", "output_dir", "device", "merge.", "export.", "hub.", "engine.max_tokens_per_microbatch",
    "training.gradient_checkpointing", "training.activation_checkpointing", "launch.", "training.ddp_",
    "training.max_steps", "training.num_train_epochs", "training.logging_", "training.eval_s", "training.eval_on_start",
    "training.save_", "training.watchdogs",
    "training.report_to", "training.run_name", "training.per_device_eval_batch_size",
    "training.dataloader_num_workers", "training.dataloader_prefetch_factor", "training.dataloader_persistent_workers",
    "training.dataloader_multiprocessing_context", "training.dataloader_pin_memory",
)  # fmt: skip
ADDED_LATER = {"training.nll_weight": 1.0}  # settings that plans of older versions do not have, with what they did
LENGTH_SETTINGS = ("training.max_steps", "training.num_train_epochs")


class Input(StrEnum):
    """An input of a run that has a fingerprint in run.json."""

    DATA = "data"
    TOKENIZER = "tokenizer"
    CHAT_TEMPLATE = "chat_template"
    WEIGHTS = "weights"


class InputsChanged(UsageError):
    """The data, the tokenizer, the chat template or the base weights of a run have changed."""


def checkpoint_to_resume(rundir: RunDir, plan: Plan, resume: str, warn: Callable[[str], None]) -> Path | None:
    """The checkpoint that ``resume`` (``auto`` or a path) selects; None where ``auto`` finds none that is valid.

    ``warn`` receives messages about newer checkpoints that cannot be used, and about changed settings. Raises UsageError where
    the path is not a checkpoint of this run, or the plan has changed; DataError where a data file of the run is missing.
    """
    before = rundir.read_plan()
    _refuse_missing_data(before, plan)
    before, moved = follow_moves(before, plan, recorded_fingerprints(rundir))
    _refuse_changes(before, plan, rundir)
    if moved:
        warn("the run continues with inputs at other places, whose content is compared:\n  " + "\n  ".join(moved))
    if accepted := [text for path, text in _differences(before, plan).items() if path not in ("name", "output_dir")]:
        warn("the run continues with other settings than before:\n  " + "\n  ".join(accepted))
    if resume == "auto":
        found = newest_usable(rundir, warn)
        _warn_without_manifest(found, warn)
        return found
    path = Path(resume).absolute()
    if path.parent.resolve() != rundir.checkpoints.resolve() or checkpoint_step(path) is None or not path.is_dir():
        raise UsageError(
            f"--resume {resume}: not a checkpoint of {rundir.root}.", remedy=f"They are in {rundir.checkpoints}."
        )
    if (reason := rundir.unusable_reason(path)) is not None:
        raise UsageError(f"--resume {resume} cannot be used: {reason}.", remedy="Use --resume auto.")
    _warn_without_manifest(path, warn)
    return path


def recorded_fingerprints(rundir: RunDir) -> dict[str, Any]:
    """The fingerprints in run.json. A run of version 0.2.0 has those of its pairs, in the data report."""
    recorded = rundir.read_run().get("fingerprints")
    if isinstance(recorded, dict):
        return recorded
    report = rundir.read_data_report()
    counts = {"train": report.get("train_pairs"), "eval": report.get("eval_pairs")}
    parts = report.get("fingerprints") if isinstance(report.get("fingerprints"), dict) else {}
    return {"data": {part: {"pairs": counts.get(part), "digest": digest} for part, digest in (parts or {}).items()}}


def missing_fingerprints(rundir: RunDir) -> list[Input]:
    """The inputs that cannot be compared, because an older version has not recorded their fingerprints."""
    before = recorded_fingerprints(rundir)
    before = {**before, "data": (before.get("data") or {}).get("train")}
    return [kind for kind in Input if not before.get(kind)]


def _warn_without_manifest(checkpoint: Path | None, warn: Callable[[str], None]) -> None:
    if checkpoint is not None and read_manifest(checkpoint) is None:
        warn(
            f"{checkpoint} has no {MANIFEST}, as in version 0.2.0: its files can be loaded, but a changed value is not noticed"
        )


def _refuse_missing_data(before: Plan, now: Plan) -> None:
    """Raise DataError where a local file of the run is gone: its path, no longer found, would differ from that in the plan."""
    for old, new in zip(_sources(before), _sources(now), strict=False):
        if is_gone(old.path, new.path):
            raise DataError(
                f"{old.path}: no such file. The run was started with it.",
                remedy="Restore the file, or start a new run: --set output_dir=DIR.",
            )


def _sources(plan: Plan) -> list[Source]:
    return [*plan.dataset.train, *(plan.dataset.eval if isinstance(plan.dataset.eval, list) else ())]


def newest_usable(rundir: RunDir, warn: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is valid and finite; ``warn`` receives the reason why newer ones are not used."""
    found = rundir.checkpoints.glob("checkpoint-*")  # also files and links
    named = [path for path in found if checkpoint_step(path) is not None]
    for path in sorted(named, key=lambda path: checkpoint_step(path) or 0, reverse=True):
        reason = rundir.unusable_reason(path)
        if reason is None:
            return path
        warn(f"{path} is not used, and left as it is: {reason}")
    return None


def set_aside_later(rundir: RunDir, checkpoint: Path) -> Path | None:
    """Move checkpoints of later steps to ``abandoned/``, with a copy of the metrics, where the run goes back to ``checkpoint``.

    Returns the folder; None where the run does not go back, since all later checkpoints are unusable: they are left alone.
    The folder gets its name when all are moved. A process that is killed before has not gone back: see ``restore_later``.
    """
    step = checkpoint_step(checkpoint) or 0
    later = [path for path in find_checkpoints(rundir.checkpoints) if (checkpoint_step(path) or 0) > step]
    if all(rundir.unusable_reason(path) is not None for path in later):
        return None
    rundir.check_owned()
    folder = unused_name(rundir.abandoned / f"attempt-{max(rundir.attempt - 1, 1)}")
    partial = _partial_folder(rundir)
    try:
        (partial / rundir.checkpoints.name).mkdir(parents=True)
        for path in (rundir.metrics, rundir.eval_scores):
            if path.exists():
                shutil.copy2(path, partial / path.name)
        for path in later:
            path.rename(partial / rundir.checkpoints.name / path.name)
        partial.rename(folder)
    except BaseException:  # a full disk, a signal
        restore_later(rundir)
        raise
    return folder


def restore_later(rundir: RunDir) -> None:
    """Move checkpoints back that a process was moving aside when it was killed. Does nothing where there are none."""
    partial = _partial_folder(rundir)
    if partial.exists():
        for path in (partial / rundir.checkpoints.name).glob("*"):
            path.rename(unused_name(rundir.checkpoints / path.name))
        shutil.rmtree(partial)
    with suppress(OSError):  # it is absent, or has folders of earlier attempts
        rundir.abandoned.rmdir()


def _partial_folder(rundir: RunDir) -> Path:
    return rundir.abandoned / ".attempt.partial"


def trains_longer(rundir: RunDir, plan: Plan) -> bool:
    """Whether ``plan`` trains a finished run for more steps than it did; False where its settings are the same.

    Values that the plan decides may differ, because they depend on the machine, and its data files may be gone. Raises UsageError
    where another setting has changed, the run is not longer, or there is no checkpoint to resume from.
    """
    plan = restore_gone_paths(rundir.read_plan(), plan)
    before, _ = follow_moves(rundir.read_plan(), plan, recorded_fingerprints(rundir))
    same = ("output_dir", "launch.", *([ACCUMULATION] if _same_pairs_per_step(before, plan) else []))
    changed = {
        path: difference
        for path, difference in _differences(before, plan).items()
        if not path.startswith(same) and (_is_set(before, path) or _is_set(plan, path))
    } | _changed_sections(before, plan)
    if not changed:
        return False
    checkpoint = rundir.last_checkpoint()
    if not changed.keys() & set(LENGTH_SETTINGS):
        rule = "has finished, and its settings have changed"
    elif not _has_more_steps(rundir, before, plan, checkpoint):
        rule = f"has finished after {rundir.read_run().get('steps')} steps, and the new settings do not train longer"
    elif checkpoint is None:
        rule = "has finished and kept no checkpoint, so that it cannot be trained longer"
    else:
        return True
    raise UsageError(
        f"{rundir.root} {rule}:\n  " + "\n  ".join(changed.values()),
        remedy="Resume with the settings that it was trained with, or start a new run: --set output_dir=DIR.",
    )


def steps_left_by_callback(rundir: RunDir) -> int:
    """Steps of a finished run that were not trained, because a callback ended it; 0 where there are none."""
    run = rundir.read_run()
    return max(0, (run.get("planned_steps") or 0) - (run.get("steps") or 0))


def has_steps_to_train(rundir: RunDir, plan: Plan, resume: str) -> bool:
    """Whether a finished run is resumed to train further steps: ``plan`` has more, or a callback ended it and ``resume`` is a path.

    Raises UsageError as ``trains_longer``.
    """
    return trains_longer(rundir, plan) or (resume != "auto" and steps_left_by_callback(rundir) > 0)


def describe_finished(rundir: RunDir) -> str:
    """Why ``--resume auto`` trains nothing, and how a run that a callback ended continues."""
    if not (left := steps_left_by_callback(rundir)):
        return f"{rundir.root}: this run has finished; there is nothing to resume"
    steps = rundir.read_run()["steps"]
    text = f"{rundir.root}: a callback ended this run at step {steps} of {steps + left}, and nothing is trained"
    checkpoint = rundir.last_checkpoint(contents=False)
    if checkpoint is None:
        return f"{text}; it has no checkpoint to continue from"
    return f"{text}; `--resume {checkpoint}` trains the other steps"


def _changed_sections(before: Plan, now: Plan) -> dict[str, str]:
    """Sections that only one of the plans has, also with defaults only: `lora: {}` trains another model than no section."""
    return {
        name: f"{name}: {'removed' if getattr(now, name) is None else 'added'}"
        for name in ("lora", "quantization")
        if (getattr(before, name) is None) != (getattr(now, name) is None)
    }


def _has_more_steps(rundir: RunDir, before: Plan, now: Plan, checkpoint: Path | None) -> bool:
    done = rundir.read_run().get("steps") or 0
    most, epochs = now.training.get("max_steps") or -1, now.training.get("num_train_epochs") or 0
    if most > 0:
        return bool(most > done)
    if (before.training.get("max_steps") or -1) <= 0:
        return bool(epochs > (before.training.get("num_train_epochs") or 0))
    if checkpoint is None:
        return True  # it cannot be known how many steps an epoch has
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return bool(epochs * state["global_step"] > done * state["epoch"])


def _is_set(plan: Plan, path: str) -> bool:
    """Whether the user has set a value, or the section that it is in."""
    path = re.sub(r"\[\d+\]", "", path)
    while path:
        if path in plan.why:
            return plan.why[path].origin not in ("decided", "default")
        path = path.rpartition(".")[0]
    return False


def _refuse_changes(before: Plan, now: Plan, rundir: RunDir) -> None:
    changeable = (*CHANGEABLE, ACCUMULATION) if _same_pairs_per_step(before, now) else CHANGEABLE
    differences = _differences(before, now)
    changed = [text for path, text in differences.items() if path == PAIRS or not path.startswith(changeable)]
    if (obstacle := process_obstacle(before, now)) is not None:
        changed.append(f"{differences['launch.num_processes']} ({obstacle})")
    if changed:
        raise UsageError(
            f"{rundir.root} was started with other settings:\n  " + "\n  ".join(changed),
            remedy="Resume with the original recipe, or start a new run: --set output_dir=DIR.",
        )


def _same_pairs_per_step(before: Plan, now: Plan) -> bool:
    return before.launch.pairs_per_step == now.launch.pairs_per_step


def _differences(before: Plan, now: Plan) -> dict[str, str]:
    """Values that differ: the path of each, and a line with both values."""
    old, new = ({**ADDED_LATER, **_flatten(each.values())} for each in (before, now))
    return {
        path: f"{path}: {old.get(path)!r} → {new.get(path)!r}"
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    }


def _flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Values by dotted path. The keys of a source of pairs have their own: `dataset.train[0].max_samples`."""
    if isinstance(values, list) and values and all(isinstance(each, dict) for each in values):
        numbered = enumerate(values)
        name = prefix.removesuffix(".")
        return {
            path: value for index, inner in numbered for path, value in _flatten(inner, f"{name}[{index}].").items()
        }
    if not isinstance(values, dict):
        return {prefix.removesuffix("."): values}
    return {path: value for key, inner in values.items() for path, value in _flatten(inner, f"{prefix}{key}.").items()}
