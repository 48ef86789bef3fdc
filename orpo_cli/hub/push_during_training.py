"""Push during training (``training.push_to_hub``): in the background, and a failure never stops a run that has begun.

The strategies are those of transformers: ``end`` pushes the result, ``every_save`` (the default) also the weights of every
checkpoint, ``checkpoint`` also the complete last checkpoint as ``last-checkpoint``, ``all_checkpoints`` each one under its name.
"""

from __future__ import annotations

import os
import queue
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from orpo_cli.atomic import atomic_write_text
from orpo_cli.card.base_license import hub_id
from orpo_cli.card.model_card import render_card
from orpo_cli.card.run_contents import ADAPTER_CONFIG, CARD_PATH, PushFile, RunPart, part_files, without_local_base
from orpo_cli.checkpoint_manifest import MANIFEST
from orpo_cli.errors import HubRefused, Interrupted, OrpoError, Problem, UsageError
from orpo_cli.hub.hub_errors import translate_hub_errors
from orpo_cli.hub.preflight import PushOptions, run_preflight
from orpo_cli.hub.push import PushRequest, PushResult, push
from orpo_cli.hub.push_record import read_base_license, write_base_license
from orpo_cli.hub.retry import RetryPolicy, reset_client
from orpo_cli.hub.upload import Upload
from orpo_cli.planning.plan import Plan
from orpo_cli.redaction import redact
from orpo_cli.rundir import RunDir
from orpo_cli.training.save_before import PUSH_WAIT_SECONDS


class PushCallback(TrainerCallback):
    """Trainer callback that pushes checkpoints and the result. Errors of the hub go to ``warn``, and the run continues."""

    def __init__(
        self, plan: Plan, rundir: RunDir, note: Callable[[str], None], warn: Callable[[Problem], None]
    ) -> None:
        assert plan.hub.repo_id is not None, "checked by a rule of the recipe"
        self.plan, self.rundir, self.note, self.warn = plan, rundir, note, warn
        self.strategy = plan.training.get("hub_strategy", "every_save")
        self.always_push = bool(plan.training.get("hub_always_push"))
        self.options = PushOptions(plan.hub.repo_id, plan.hub.private, plan.training.get("hub_revision") or "main")
        self.base = plan.model.model_name_or_path
        self.staging_folder = rundir.staging
        self.pending: queue.Queue[Path] = queue.Queue()
        self.worker: threading.Thread | None = None

    def check_access(self, *, resumed: bool) -> None:
        """Check before the first step whether the hub would accept the result.

        A push that the hub refuses is an error before a new run, because it would be refused after the training too. A resumed
        run, and one whose hub cannot be reached, continues with a warning.
        """
        try:
            retry = RetryPolicy(self.note, min(30.0, RetryPolicy(self.note).max_seconds))
            with translate_hub_errors(self.options.repo_id):
                api, state, base_license = run_preflight(
                    self.base, self.options, retry, includes_base=self.plan.lora is None
                )
                write_base_license(self.rundir, base_license)
                if state.exists:
                    Upload(api, self.rundir, self.options, state, (), retry, is_complete=False).check_foreign_weights()
        except (HubRefused, UsageError) as error:
            if not resumed:
                without = "To train without the push: --set training.push_to_hub=false."
                remedy = " ".join(filter(None, (error.remedy, without)))
                raise type(error)(f"training.push_to_hub: {error}", remedy=remedy) from error
            self._warn_failed("before the run", error, "The run continues and tries again.")
        except Interrupted:
            raise
        except Exception as error:
            self._warn_failed("before the run", error, "The run continues and tries again.")
        else:
            self.note(f"pushing to {self.options.repo_id} with training.hub_strategy {self.strategy}")
        finally:
            reset_client()  # the model may be downloaded next

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stage the files of the new checkpoint, and push them in the background."""
        if self.strategy == "end" or not state.is_world_process_zero:
            return
        name = f"checkpoint-{state.global_step}"
        busy = self.worker is not None and self.worker.is_alive()
        if busy and not self.always_push:
            self.note(f"{name} is not pushed: an earlier push is in progress (hub_always_push: true pushes both)")
            return
        try:
            self.pending.put(self._stage_checkpoint(self.rundir.checkpoints / name))
        except (OSError, OrpoError) as error:  # also a full disk
            self._warn_failed(name, error)
            return
        if not busy:
            self.worker = threading.Thread(target=self._push_pending, name="push-to-hub", daemon=True)
            self.worker.start()

    def wait_for_pending(self, *, interrupted: bool) -> None:
        """Wait for the pushes in progress; after an interruption for 30 seconds at most."""
        try:
            if self.worker is not None and self.worker.is_alive():
                self.note(f"waiting for the push to {self.options.repo_id}")
                self.worker.join(PUSH_WAIT_SECONDS if interrupted else None)
                if self.worker.is_alive():
                    self.note(
                        f"the last push to {self.options.repo_id} did not complete; nothing of it is visible there"
                    )
        except KeyboardInterrupt:  # a second Ctrl-C ends the wait, and the first interruption is reported
            if not interrupted:
                raise
        finally:
            self.rundir.check_owned()
            shutil.rmtree(self.staging_folder, ignore_errors=True)

    def push_result(self) -> PushResult | None:
        """Push the result of the run with its card; None if that failed."""
        try:
            result = push(self.rundir, PushRequest(self.options.repo_id, revision=self.options.revision), self.note)
        except Exception as error:
            self._warn_failed("the result", error)
            self.rundir.write_run(hub={"repo_id": self.options.repo_id, "commit": None, "error": redact(str(error))})
            return None
        self.note(f"pushed the result: {result.url}")
        self.rundir.write_run(hub={"repo_id": self.options.repo_id, "commit": result.commit, "error": None})
        return result

    def _stage_checkpoint(self, checkpoint: Path) -> Path:
        """A folder of hard links to the files of a checkpoint, which the trainer may delete during the push."""
        staged = self.staging_folder / checkpoint.name
        shutil.rmtree(staged, ignore_errors=True)
        shutil.copytree(checkpoint, staged, copy_function=_link)
        (staged / MANIFEST).unlink(missing_ok=True)  # of the unchanged folder
        config = staged / ADAPTER_CONFIG
        if config.is_file():  # its base is the path that was loaded: for a GGUF file, a folder in the cache
            text = without_local_base(config.read_text(), hub_id(self.plan.model.model_name_or_path))
            config.unlink()
            atomic_write_text(config, text)
        return staged

    def _push_pending(self) -> None:
        while True:
            try:
                staged = self.pending.get_nowait()
            except queue.Empty:
                return
            try:
                self._push_checkpoint(staged)
            except Exception as error:
                self._warn_failed(staged.name, error, "The run continues.")
            finally:
                shutil.rmtree(staged, ignore_errors=True)

    def _push_checkpoint(self, staged: Path) -> None:
        part: RunPart = "adapter" if self.plan.lora is not None else "model"
        retry = RetryPolicy(self.note)
        with translate_hub_errors(self.options.repo_id):
            api, state, base_license = run_preflight(self.base, self.options, retry, includes_base=part == "model")
            base_license = base_license or read_base_license(self.rundir)
            card = render_card(self.rundir, parts=part, repo_id=self.options.repo_id, base_license=base_license)
            atomic_write_text(staged / CARD_PATH, card)
            files = [PushFile(CARD_PATH, staged / CARD_PATH, len(card.encode()), "card"), *part_files(staged, part)]
            if self.strategy in ("checkpoint", "all_checkpoints"):
                folder = "last-checkpoint" if self.strategy == "checkpoint" else staged.name
                files += _checkpoint_files(staged, folder)
            message = f"Push {staged.name} of {self.plan.name} with orpo-cli"
            Upload(api, self.rundir, self.options, state, files, retry, is_complete=True).run(message)
        self.note(f"pushed {staged.name} to {self.options.repo_id}")

    def _warn_failed(self, what: str, error: Exception, consequence: str = "") -> None:
        remedy = error.remedy if isinstance(error, OrpoError) and error.remedy else f"{type(error).__name__}."
        again = f"`orpo push-to-hub {self.rundir.root} {self.options.repo_id}` pushes the run when it is done."
        self.warn(
            Problem(
                "hub-push-failed",
                redact(f"{what}: {error}"),
                "training.push_to_hub",
                remedy=" ".join(filter(None, (redact(remedy), consequence, again))),
                severity="warning",
            )
        )


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


def _checkpoint_files(staged: Path, folder: str) -> list[PushFile]:
    """All files that a run is resumed from, without the pickled arguments, which may contain secrets."""
    paths = sorted(
        path for path in staged.rglob("*") if path.is_file() and path.name not in ("training_args.bin", CARD_PATH)
    )
    return [
        PushFile(f"{folder}/{path.relative_to(staged).as_posix()}", path, path.stat().st_size, folder) for path in paths
    ]
