"""A training run: model and data in, an adapter or a model out, with everything that can go wrong on the way."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.atomic import atomic_directory
from orpo_cli.data.pair_encoder import end_token_ids
from orpo_cli.errors import Interrupted, MachineError, OrpoError, RunError
from orpo_cli.model.onednn import use_onednn
from orpo_cli.model.save import complete_generation_config, copy_mode_to_weights, save_model
from orpo_cli.model.vector_math import initialize_vector_math
from orpo_cli.plan.plan import Plan
from orpo_cli.redaction import redact
from orpo_cli.rundir import FAILED, FINISHED, INTERRUPTED, RunDir, is_complete
from orpo_cli.training.allocator import keep_freed_memory
from orpo_cli.training.callbacks import InterruptCallback, MetricsCallback, TrainingObserver, truncate_metrics
from orpo_cli.training.make_trainer import make_trainer
from orpo_cli.training.out_of_memory import is_out_of_memory
from orpo_cli.training.trl_trainer import PairTrainer
from orpo_cli.training.untrained_tokens import untrained_template_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

    from orpo_cli.data.prepare import PreparedData


@dataclass(frozen=True)
class TrainingResult:
    """What training left: ``metrics`` is the last logged step, ``evaluation`` the last evaluation (may be empty)."""

    result: Path
    steps: int
    seconds: float
    metrics: dict[str, Any]
    evaluation: dict[str, Any]


def train(
    plan: Plan,
    rundir: RunDir,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: PreparedData,
    listener: TrainingObserver,
    resume_from: Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainingResult:
    """Train as the plan says and save the result; keeps run.json's status true. ``callbacks`` watch, too.

    Raises Interrupted (a checkpoint was saved), RunError (a loss that is not finite, nothing learned), MachineError
    (memory, disk).
    """
    metrics, interruption = MetricsCallback(rundir.metrics, listener), InterruptCallback(listener)
    began = time.time()
    if plan.device == "cpu":
        keep_freed_memory()
        use_onednn()
        initialize_vector_math()
    try:
        model.config.pad_token_id = tokenizer.pad_token_id
        trainer = make_trainer(
            plan, rundir.checkpoints, model, tokenizer, data.train, data.eval, [metrics, interruption, *callbacks],
            listener.note,
        )  # fmt: skip
        metrics.trainer = trainer
        if (problem := untrained_template_tokens(trainer.model, tokenizer, data.train)) is not None:
            listener.warn(problem)
        if resume_from is not None:
            truncate_metrics(rundir.metrics, int(resume_from.name.rpartition("-")[2]))
        with interruption.listening():
            _run(trainer, interruption, resume_from)
        if interruption.asked:
            raise Interrupted("interrupted")
        if plan.lora is not None:
            _check_adapter_moved(trainer.model)
        save_result(trainer.model, tokenizer, plan, rundir)
    except (Interrupted, KeyboardInterrupt) as error:
        raise _interrupted(rundir) from error
    except BaseException as error:
        explained = _explained(error, rundir)
        _remove_unfinished_checkpoints(rundir)
        steps = 0 if metrics.trainer is None else metrics.trainer.state.global_step
        if steps or resume_from is not None or rundir.trained() is not None:
            first_line = next(iter(str(explained).splitlines()), repr(explained))
            rundir.write_run(status=FAILED, finished_at=_now(), error=redact(first_line))
        else:
            rundir.discard()  # no step was done: there is nothing to keep, and the next try can use the directory
        if explained is error:
            raise
        raise explained from error
    evaluations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    outcome = TrainingResult(
        result=rundir.result(),
        steps=trainer.state.global_step,
        seconds=time.time() - began,
        metrics=metrics.last,
        evaluation=evaluations[-1] if evaluations else {},
    )
    rundir.write_run(
        status=FINISHED,
        finished_at=_now(),
        seconds=round(outcome.seconds, 1),
        steps=outcome.steps,
        final_metrics=outcome.metrics,
        final_evaluation=outcome.evaluation,
        best_checkpoint=trainer.state.best_model_checkpoint,
        trainable_parameters=sum(each.numel() for each in trainer.model.parameters() if each.requires_grad),
    )
    return outcome


def save_result(model: Any, tokenizer: PreTrainedTokenizerBase, plan: Plan, rundir: RunDir) -> None:
    """Write the adapter (or the model), and beside it the tokenizer and every token that ends an answer.

    The folder appears when it is whole.
    """
    model.config.use_cache = True
    ends = end_token_ids(model, tokenizer)
    if plan.lora is None:
        with atomic_directory(rundir.model) as folder:
            save_model(model, tokenizer, ends, folder, plan.merge.max_shard_size)
        return
    for config in model.peft_config.values():  # of a GGUF file, peft would name our cache
        config.base_model_name_or_path = plan.model.model_name_or_path
    with atomic_directory(rundir.adapter) as folder:
        # of a grown vocabulary the adapter holds the new rows; peft would add all the others
        model.save_pretrained(folder, save_embedding_layers=False if plan.model.add_special_tokens else "auto")
        tokenizer.save_pretrained(folder)
        base = model.get_base_model()
        complete_generation_config(base, tokenizer, ends)
        if base.generation_config is not None:
            base.generation_config.save_pretrained(folder)
        copy_mode_to_weights(folder / "adapter_config.json")


def _run(trainer: PairTrainer, interruption: InterruptCallback, resume_from: Path | None) -> None:
    try:
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    except Interrupted:
        trainer._save_checkpoint(trainer.model, None)
        raise


def _interrupted(rundir: RunDir) -> Interrupted:
    _remove_unfinished_checkpoints(rundir)
    checkpoint = rundir.last_checkpoint()
    rundir.write_run(status=INTERRUPTED, finished_at=_now())
    if checkpoint is None:
        return Interrupted("interrupted before the first checkpoint.", remedy="Start again with `--resume auto`.")
    return Interrupted(f"interrupted; saved {checkpoint}.", remedy="Go on with the same command and `--resume auto`.")


def _check_adapter_moved(model: Any) -> None:
    """Gradient checkpointing and adapters can conspire to train nothing, silently."""
    start = "lora_A" if model.active_peft_config.init_lora_weights == "mica" else "lora_B"  # zero before training
    moved = [bool(parameter.any()) for name, parameter in model.named_parameters() if start in name]
    if moved and not any(moved):
        raise RunError("the adapter did not change: no gradient reached it.", remedy="Report this with your recipe.")


def _explained(error: BaseException, rundir: RunDir) -> BaseException:
    if isinstance(error, OrpoError):
        return error
    if is_out_of_memory(error):
        return MachineError(
            "out of memory.",
            remedy="In this order: halve training.per_device_train_batch_size and double gradient_accumulation_steps "
            "(the step stays the same), set gradient_checkpointing: true, lower max_length, load the base in 4 bits.",
        )
    if _is_disk_full(error):
        return MachineError(
            f"the disk that holds {rundir.root} is full.",
            remedy="Free some space, then go on with `--resume auto`; training.save_total_limit bounds checkpoints.",
        )
    return error


def _is_disk_full(error: BaseException | None) -> bool:
    """Whether the error, or one that it came from, is a full disk; torch.save and safetensors have their own words for it."""
    while error is not None:
        words = ("No space left", "inline_container", "PytorchStreamWriter")
        if getattr(error, "errno", None) == errno.ENOSPC or any(word in str(error) for word in words):
            return True
        error = error.__cause__ or error.__context__
    return False


def _remove_unfinished_checkpoints(rundir: RunDir) -> None:
    """A checkpoint without its state was being written when the run died; it cannot be resumed."""
    for folder in rundir.checkpoints.glob("checkpoint-*"):
        if not is_complete(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
