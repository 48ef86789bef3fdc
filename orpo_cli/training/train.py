"""Training run: trains a model on prepared pairs, saves the adapter or the model, and keeps run.json up to date."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli import interruption
from orpo_cli.atomic import NO_SPACE_REMEDY, atomic_directory
from orpo_cli.checkpoint_manifest import checkpoint_step
from orpo_cli.data.pair_encoder import end_token_ids
from orpo_cli.errors import Interrupted, MachineError, OrpoError, RunError
from orpo_cli.json_files import is_number, read_json_lines
from orpo_cli.model.onednn import use_onednn
from orpo_cli.model.save import complete_generation_config, copy_mode_to_weights, remove_empty_card, save_model
from orpo_cli.model.vector_math import initialize_vector_math
from orpo_cli.os_errors import explain_os_error
from orpo_cli.planning.plan import Plan
from orpo_cli.run_attempts import FAILED, FINISHED, INTERRUPTED
from orpo_cli.run_lock import RunLost
from orpo_cli.run_status import end_attempt, first_line, write_last_step
from orpo_cli.rundir import RunDir
from orpo_cli.training.allocator import keep_freed_memory, reserve_small_chunks
from orpo_cli.training.checkpoint_writer import remove_staging, sync
from orpo_cli.training.failed_attempt import record_failure
from orpo_cli.training.full_state import local_tensor
from orpo_cli.training.interrupt import InterruptCallback
from orpo_cli.training.live_watchdogs import LiveWatchdogs
from orpo_cli.training.make_trainer import TrainingInputs, make_trainer
from orpo_cli.training.metrics_file import restore_metrics
from orpo_cli.training.metrics_log import MetricsCallback, TrainingObserver
from orpo_cli.training.out_of_memory import is_out_of_memory
from orpo_cli.training.save_before import SaveBeforeCallback, find_deadline
from orpo_cli.training.schedule_callback import ScheduleCallback
from orpo_cli.training.trackers import TrackersCallback, tracker_names
from orpo_cli.training.trained_totals import TrainedTotals
from orpo_cli.training.trl_trainer import PairTrainer
from orpo_cli.training.untrained_tokens import untrained_template_tokens

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, TrainerCallback

DISK_REMEDY = "Free some space, then continue with `--resume auto`; training.save_total_limit limits checkpoints."


def train(
    plan: Plan,
    rundir: RunDir,
    inputs: TrainingInputs,
    observer: TrainingObserver,
    resume_from: Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Train as ``plan`` says, save the result, and record the result or a failure in run.json.

    Of several processes, only the one that ``rundir.writes`` changes the directory; their parent records a failure.

    Raises Interrupted (a checkpoint of the last step was saved) or KeyboardInterrupt after a signal, RunError (a loss that
    is not finite, an adapter that did not change), MachineError (memory, disk).
    """
    metrics = MetricsCallback(
        rundir.metrics,
        observer,
        rundir.check_owned,
        scores=rundir.eval_scores,
        attempt=rundir.attempt,
        before=TrainedTotals.of_checkpoint(resume_from, plan.launch.pairs_per_step),
    )
    interrupt = InterruptCallback(observer.note)
    started = time.time()
    if plan.device == "cpu":
        _configure_cpu()
    if rundir.writes:
        rundir.check_owned()
        remove_staging(rundir.checkpoints)
    try:
        from_step = checkpoint_step(resume_from) or 0 if resume_from else 0
        trackers = TrackersCallback(plan, rundir, observer, from_step)
        metrics.listeners.append(trackers.record)
        watchdogs = LiveWatchdogs(plan, metrics, rundir.add_warning)
        trainer = _connect_trainer(plan, rundir, inputs, metrics, trackers, [interrupt, *callbacks])
        if resume_from is not None:  # the evaluation of the base is done
            trainer.args.eval_on_start = False
        if rundir.writes:
            _begin_steps(rundir, inputs, observer, trainer, resume_from)
            metrics.before = metrics.before.at_least(_elapsed(rundir))
            watchdogs.replay(rundir.read_metrics())
        with trackers, interrupt.handle_signals():
            with watchdogs.ending_training(trainer.agreement):
                interrupt.run_steps(trainer, resume_from)
            observer.status("saving the result")
            _finish(trainer, inputs, plan, rundir, metrics, started)
    except (Interrupted, KeyboardInterrupt):
        if rundir.writes:
            with interruption.uninterrupted():
                _record_end(rundir, metrics, INTERRUPTED)
                with suppress(OSError, OrpoError):
                    write_last_step(rundir, metrics.step)
        raise
    except BaseException as error:
        explained = _explain_error(error, rundir)
        if rundir.writes:
            _record_end(rundir, metrics, FAILED, first_line(explained))
        if rundir.ends_attempts:
            record_failure(rundir, explained, metrics.step)
        if explained is error:
            raise
        raise explained from error


def _configure_cpu() -> None:
    keep_freed_memory()
    reserve_small_chunks()
    use_onednn()
    initialize_vector_math()


def _connect_trainer(
    plan: Plan,
    rundir: RunDir,
    inputs: TrainingInputs,
    metrics: MetricsCallback,
    trackers: TrackersCallback,
    callbacks: Sequence[TrainerCallback],
) -> PairTrainer:
    """The trainer with all callbacks, which reports to ``metrics`` and its observer; ``callbacks`` come last."""
    observer = metrics.observer
    inputs.model.config.pad_token_id = inputs.tokenizer.pad_token_id
    deadline = find_deadline(plan.training.get("save_before"))
    pushes = bool(plan.training.get("push_to_hub"))
    save_before = [] if deadline is None else [SaveBeforeCallback(deadline, observer.note, pushes=pushes)]
    schedule = ScheduleCallback(observer, plan.launch.pairs_per_step, len(inputs.eval_dataset or ()))
    all_callbacks = [schedule, trackers, metrics, *save_before, *callbacks]
    observer.status("preparing the trainer")
    trainer = make_trainer(plan, rundir.checkpoints, inputs, all_callbacks, observer.note)
    metrics.trainer, trainer.saver.check_owned = trainer, rundir.check_owned
    trainer.status = observer.status
    trainer.report_event, trainer.checkpoint_totals = metrics.event, metrics.checkpoint_totals
    # Their callbacks measure the save, or read the checkpoint.
    trainer.saver.in_background = not (deadline or pushes or trackers_read_checkpoints(tracker_names(plan)))
    return trainer


def _begin_steps(
    rundir: RunDir, inputs: TrainingInputs, observer: TrainingObserver, trainer: PairTrainer, resume_from: Path | None
) -> None:
    """Warn about tokens that cannot be trained, and set metrics and last step in the directory to where training starts."""
    problem = untrained_template_tokens(trainer.model, inputs.tokenizer, inputs.train_dataset)
    if problem is not None:
        observer.warn(problem)
        rundir.add_warning(problem.code, problem.message, problem.remedy)
    foreign = _restore_metrics(rundir, resume_from)
    if foreign:
        observer.note(f"{rundir.metrics}: lines that are not metrics are kept: {foreign}")
    write_last_step(rundir, checkpoint_step(resume_from) or 0 if resume_from else 0)


def _elapsed(rundir: RunDir) -> float:
    """Seconds of training until the last line of the earlier attempts: they end later than their last checkpoint."""
    found = (line.get("elapsed") for line in read_json_lines(rundir.metrics))
    return max((float(seconds) for seconds in found if seconds is not None and is_number(seconds)), default=0.0)


def _finish(
    trainer: PairTrainer, inputs: TrainingInputs, plan: Plan, rundir: RunDir, metrics: MetricsCallback, started: float
) -> None:
    """Save the result and record it; all ranks call this, and one writes. ``started``: the time when training began."""
    weights = _gather_result(trainer, plan)
    if not rundir.writes:
        return
    rundir.check_owned()
    metrics.file.finish()
    write_last_step(rundir, trainer.state.global_step)
    rundir.set_aside_measurements()
    save_result(trainer.model, inputs.tokenizer, plan, rundir, weights)
    metrics.event("end", _early_end(trainer), reason=FINISHED)
    metrics.file.finish()
    _record_result(rundir, trainer, metrics, time.time() - started)


def _early_end(trainer: PairTrainer) -> str | None:
    """How the training ended before its last planned step: without an error, only a callback does that. None where it did not."""
    step, planned = trainer.state.global_step, trainer.state.max_steps
    return f"stopped by a callback at step {step} of {planned}" if step < planned else None


def trackers_read_checkpoints(report_to: Sequence[str]) -> bool:
    """Whether a tracker may upload a checkpoint as soon as the Trainer has saved it. wandb does it if the user asks for it."""
    metrics_only = {"tensorboard", "kubeflow", *(() if os.environ.get("WANDB_LOG_MODEL") else ("wandb",))}
    return not metrics_only.issuperset(report_to)


def _restore_metrics(rundir: RunDir, checkpoint: Path | None) -> int:
    """Set metrics.jsonl and eval_scores.jsonl back to the checkpoint, or empty them; the number of lines that are not metrics."""
    rundir.check_owned()
    if checkpoint is None:
        restore_metrics(rundir.eval_scores, -1)
        return restore_metrics(rundir.metrics, -1)
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    restore_metrics(rundir.eval_scores, state["global_step"])
    return restore_metrics(rundir.metrics, state["global_step"], state.get("log_history", ()))


def _gather_result(trainer: PairTrainer, plan: Plan) -> dict[str, torch.Tensor] | None:
    """The weights of the result where they are sharded; all ranks call it. Raises RunError for an unchanged adapter."""
    if plan.lora is None:
        return trainer.gather_weights()
    _check_adapter_changed(trainer)
    for (
        config
    ) in trainer.model.peft_config.values():  # for a GGUF base, peft would write the path of the converted files
        config.base_model_name_or_path = plan.model.model_name_or_path
    return trainer.gather_weights(save_embedding_layers=_saved_embeddings(plan))


def _saved_embeddings(plan: Plan) -> bool | str:
    """peft's argument. With added tokens the adapter has the new rows; peft would save all other rows as well."""
    return False if plan.model.add_special_tokens else "auto"


def save_result(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    plan: Plan,
    rundir: RunDir,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write the adapter (or the model) with the tokenizer and the ids of all end-of-turn tokens, atomically.

    ``weights``: those of the result, where the model has shards only.
    """
    model.config.use_cache = True
    eos_token_ids = end_token_ids(model, tokenizer)
    if plan.lora is None:
        with atomic_directory(rundir.model) as folder:
            save_model(model, tokenizer, eos_token_ids, folder, plan.merge.max_shard_size, weights)
            _sync_all(folder)
            rundir.check_owned()
        return
    with atomic_directory(rundir.adapter) as folder:
        model.save_pretrained(folder, save_embedding_layers=_saved_embeddings(plan), state_dict=weights)
        remove_empty_card(folder)
        tokenizer.save_pretrained(folder)
        base = model.get_base_model()
        complete_generation_config(base, tokenizer, eos_token_ids)
        if base.generation_config is not None:
            base.generation_config.save_pretrained(folder)
        copy_mode_to_weights(folder / "adapter_config.json")
        _sync_all(folder)
        rundir.check_owned()


def _sync_all(folder: Path) -> None:
    """Write the files to the disk: after a power failure, a renamed folder could have empty ones."""
    for path in (*sorted(folder.rglob("*")), folder):
        sync(path)


def _check_adapter_changed(trainer: PairTrainer) -> None:
    """With some settings of checkpointing no gradient reaches an adapter, without an error from any library."""
    zero_at_start = "lora_A" if trainer.model.active_peft_config.init_lora_weights == "mica" else "lora_B"
    checked = [each for name, each in trainer.model.named_parameters() if zero_at_start in name]
    if checked and not trainer.agreement.any(any(bool(local_tensor(each).any()) for each in checked)):
        raise RunError("the adapter did not change: no gradient reached it.", remedy="Report this with your recipe.")


def _record_end(rundir: RunDir, metrics: MetricsCallback, reason: str, message: str | None = None) -> None:
    """Record the end of an attempt that trained a step and did not finish, as far as the disk allows it."""
    if metrics.step > metrics.first_step:
        with suppress(OSError, OrpoError):
            metrics.event("end", message, reason=reason)
            rundir.write_run(**metrics.figures())


def _record_result(rundir: RunDir, trainer: PairTrainer, metrics: MetricsCallback, seconds: float) -> None:
    """Write the outcome to run.json, with the last logged step and the evaluation of the saved weights (may be empty)."""
    evaluations = [entry for entry in trainer.state.log_history if "eval_loss" in entry and entry["step"] > 0]
    if trainer.args.load_best_model_at_end:
        evaluations = [entry for entry in evaluations if entry["step"] == trainer.state.best_global_step]
    end_attempt(
        rundir,
        FINISHED,
        to_step=trainer.state.global_step,
        detail=_early_end(trainer),
        seconds=round(seconds, 1),
        **metrics.figures(),
        steps=trainer.state.global_step,
        planned_steps=trainer.state.max_steps,
        final_metrics=metrics.last,
        final_evaluation=evaluations[-1] if evaluations else {},
        best_checkpoint=trainer.state.best_model_checkpoint,
        fast_path=trainer.uses_engine,
        trainable_parameters=sum(each.numel() for each in trainer.model.parameters() if each.requires_grad),
    )


def _explain_error(error: BaseException, rundir: RunDir) -> BaseException:
    """The error as an OrpoError with a remedy, where its cause is known."""
    try:
        rundir.check_owned()
    except RunLost as lost:  # a new owner has removed the files that were being written
        return lost
    if isinstance(error, OrpoError):
        return MachineError(error.message, remedy=DISK_REMEDY) if error.remedy == NO_SPACE_REMEDY else error
    if is_out_of_memory(error):
        return MachineError(
            "out of memory.",
            remedy="In this order: halve training.per_device_train_batch_size and double gradient_accumulation_steps "
            "(the step stays the same), set gradient_checkpointing: true, lower max_length, load the base in 4 bits.",
        )
    return explain_os_error(error, str(rundir.root), DISK_REMEDY) or error
