"""Pushing while a run trains (``training.push_to_hub``): in the background, and never at the run's cost.

The strategies are those of transformers: ``end`` pushes the result, ``every_save`` (the default) also the weights of every
checkpoint, ``checkpoint`` also all of the last one as ``last-checkpoint``, ``all_checkpoints`` each one under its name.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from orpo_cli.atomic import atomic_write_text
from orpo_cli.card.model_card import render_card
from orpo_cli.card.run_contents import CARD_PATH, PushFile, RunPart, part_files
from orpo_cli.errors import OrpoError, Problem
from orpo_cli.hub.hub_errors import translate_hub_errors
from orpo_cli.hub.preflight import PushOptions, check_base_license, preflight
from orpo_cli.hub.push import PushRequest, PushResult, push
from orpo_cli.hub.push_record import read_base_license, write_base_license
from orpo_cli.hub.retry import RetryPolicy, connect, reset_client
from orpo_cli.hub.upload import Upload
from orpo_cli.plan.plan import Plan
from orpo_cli.redaction import redact
from orpo_cli.rundir import RunDir

INTERRUPT_WAIT_SECONDS = 30.0  # for a push that is going on when a run is interrupted


class PushCallback(TrainerCallback):
    """Pushes what a run saves. Whatever the hub does, the run goes on: ``warn`` is told."""

    def __init__(
        self, plan: Plan, rundir: RunDir, note: Callable[[str], None], warn: Callable[[Problem], None]
    ) -> None:
        assert plan.hub.repo_id is not None, "a rule of recipes"
        self.plan, self.rundir, self.note, self.warn = plan, rundir, note, warn
        self.strategy = plan.training.get("hub_strategy", "every_save")
        self.always_push = bool(plan.training.get("hub_always_push"))
        self.options = PushOptions(plan.hub.repo_id, plan.hub.private, plan.training.get("hub_revision") or "main")
        self.pending: queue.Queue[Path] = queue.Queue()
        self.worker: threading.Thread | None = None

    def check_access(self) -> None:
        """Before the run begins: say what would keep the hub from taking its result."""
        try:
            patience = RetryPolicy(self.note, min(30.0, RetryPolicy(self.note).max_seconds))
            with translate_hub_errors(self.options.repo_id):
                api = connect(patience)
                standing = preflight(api, self.options, patience)
                weights, public = self.plan.lora is None, not self.options.private
                terms = check_base_license(
                    api, self.plan, patience, contains_base_weights=weights, public=public, license_accepted=False
                )
                if terms is not None:
                    write_base_license(self.rundir, terms)
                if standing.exists:
                    Upload(
                        api, self.rundir, self.options, standing, (), patience, is_complete=False
                    ).check_foreign_weights()
        except Exception as error:
            self._warn_failed("before the run", error, "The run goes on, and tries again.")
        else:
            self.note(f"pushing to {self.options.repo_id} as training.hub_strategy says: {self.strategy}")
        finally:
            reset_client()  # the model may be downloaded next

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A checkpoint is there: keep its files as they are now, and push them in the background."""
        if self.strategy == "end" or not state.is_world_process_zero:
            return
        name = f"checkpoint-{state.global_step}"
        busy = self.worker is not None and self.worker.is_alive()
        if busy and not self.always_push:
            self.note(f"{name} is not pushed: an earlier one is still on its way (hub_always_push: true pushes both)")
            return
        try:
            self.pending.put(self._stage_checkpoint(self.rundir.checkpoints / name))
        except OSError as error:
            self._warn_failed(name, error)
            return
        if not busy:
            self.worker = threading.Thread(target=self._push_pending, name="push-to-hub", daemon=True)
            self.worker.start()

    def wait_for_pending(self, *, interrupted: bool) -> None:
        """Wait for what is on its way; where the run was interrupted, not long."""
        if self.worker is not None and self.worker.is_alive():
            self.note(f"waiting for the push to {self.options.repo_id}")
            self.worker.join(INTERRUPT_WAIT_SECONDS if interrupted else None)
            if self.worker.is_alive():
                self.note(f"the last push to {self.options.repo_id} did not end, and shows nothing of itself there")
        shutil.rmtree(self._staging_folder, ignore_errors=True)

    def push_result(self) -> PushResult | None:
        """Push what the run left, with its card; None where that failed."""
        try:
            result = push(self.rundir, PushRequest(self.options.repo_id, revision=self.options.revision), self.note)
        except Exception as error:
            self._warn_failed("the result", error)
            self.rundir.write_run(hub={"repo_id": self.options.repo_id, "commit": None, "error": redact(str(error))})
            return None
        self.note(f"the hub has it: {result.url}")
        self.rundir.write_run(hub={"repo_id": self.options.repo_id, "commit": result.commit, "error": None})
        return result

    @property
    def _staging_folder(self) -> Path:
        return self.rundir.root / ".pushing"

    def _stage_checkpoint(self, checkpoint: Path) -> Path:
        """A folder with the checkpoint's files, which may be removed while they go up: links to them, which take no room."""
        kept = self._staging_folder / checkpoint.name
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(checkpoint, kept, copy_function=_link)
        config = kept / "adapter_config.json"
        if config.is_file():  # it names the base as it was loaded: of a GGUF file, a folder in our cache
            named = {**json.loads(config.read_text()), "base_model_name_or_path": self.plan.model.model_name_or_path}
            config.unlink()
            atomic_write_text(config, json.dumps(named, indent=2) + "\n")
        return kept

    def _push_pending(self) -> None:
        while True:
            try:
                kept = self.pending.get_nowait()
            except queue.Empty:
                return
            try:
                self._push_checkpoint(kept)
            except Exception as error:
                self._warn_failed(kept.name, error, "The run goes on.")
            finally:
                shutil.rmtree(kept, ignore_errors=True)

    def _push_checkpoint(self, kept: Path) -> None:
        part: RunPart = "adapter" if self.plan.lora is not None else "model"
        patience = RetryPolicy(self.note)
        with translate_hub_errors(self.options.repo_id):
            api = connect(patience)
            standing = preflight(api, self.options, patience)
            terms = check_base_license(
                api,
                self.plan,
                patience,
                contains_base_weights=part == "model",
                public=not self.options.private,
                license_accepted=False,
            )
            card = render_card(
                self.rundir,
                parts=part,
                repo_id=self.options.repo_id,
                base_license=terms or read_base_license(self.rundir),
            )
            atomic_write_text(kept / CARD_PATH, card)
            files = [PushFile(CARD_PATH, kept / CARD_PATH, len(card.encode()), "card"), *part_files(kept, part)]
            if self.strategy in ("checkpoint", "all_checkpoints"):
                place = "last-checkpoint" if self.strategy == "checkpoint" else kept.name
                files += _checkpoint_files(kept, place)
            message = f"Push {kept.name} of {self.plan.name} with orpo-cli"
            Upload(api, self.rundir, self.options, standing, files, patience, is_complete=True).run(message)
        self.note(f"pushed {kept.name} to {self.options.repo_id}")

    def _warn_failed(self, what: str, error: Exception, then: str = "") -> None:
        remedy = error.remedy if isinstance(error, OrpoError) and error.remedy else f"{type(error).__name__}."
        again = f"`orpo push-to-hub {self.rundir.root} {self.options.repo_id}` pushes the run when it is done."
        self.warn(
            Problem(
                "hub-push-failed",
                redact(f"{what}: {error}"),
                "training.push_to_hub",
                remedy=" ".join(filter(None, (redact(remedy), then, again))),
                severity="warning",
            )
        )


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)


def _checkpoint_files(kept: Path, place: str) -> list[PushFile]:
    """All that a run is resumed from. The pickle of arguments is not needed for that, and may hold what is secret."""
    paths = sorted(
        path for path in kept.rglob("*") if path.is_file() and path.name not in ("training_args.bin", CARD_PATH)
    )
    return [
        PushFile(f"{place}/{path.relative_to(kept).as_posix()}", path, path.stat().st_size, place) for path in paths
    ]
