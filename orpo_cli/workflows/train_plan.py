"""Training of a plan whose run is open: pairs, model, trainer, result and model card."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli import interruption
from orpo_cli.estimate.batching import count_steps
from orpo_cli.library_imports import import_libraries
from orpo_cli.planning.plan import ModelPlan, Plan
from orpo_cli.report.console import Console
from orpo_cli.run_attempts import FINISHED
from orpo_cli.rundir import RunDir
from orpo_cli.workflows.attempt_end import ending_attempt_on_error, recording_interruption
from orpo_cli.workflows.run_inputs import accept_inputs, prepare_pairs, record_data, refuse_before_load

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from orpo_cli.hub.push_during_training import PushCallback
    from orpo_cli.model.model_source import ModelSource
    from orpo_cli.report.live_display import TrainingDisplay
    from orpo_cli.training.make_trainer import TrainingInputs
    from orpo_cli.training.resume import Input


def train_plan(
    plan: Plan,
    source: ModelSource[ModelPlan],
    rundir: RunDir,
    checkpoint: Path | None,
    console: Console,
    *,
    allow_changed: Sequence[Input] = (),
    max_pairs: int | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Prepare the pairs, load the model, train in this process, save the result and write the model card.

    ``max_pairs``: train only on so many pairs, the shortest ones, as a smoke run does. An error before the first step removes a new run, and a
    change of the inputs leaves a resumed one as it is.
    """
    from orpo_cli.report.live_display import TrainingDisplay

    with TrainingDisplay(console) as display:
        with ending_attempt_on_error(rundir):
            display.status("loading the libraries")
            import_libraries("transformers.modeling_utils", "orpo_cli.training.train")

            from orpo_cli.model.added_tokens import resize_embeddings
            from orpo_cli.model.base_model import load_base, weights_device
            from orpo_cli.model.tokenizer import load_tokenizer
            from orpo_cli.model.weight_files import BaseDigests
            from orpo_cli.training.fingerprints import fingerprints
            from orpo_cli.training.make_trainer import TrainingInputs
            from orpo_cli.training.provenance import provenance

            push = open_push(plan, rundir, console)
            if push is not None:
                display.status("asking the hub for access")
                push.check_access(resumed=checkpoint is not None)
            with BaseDigests(source) as weights:
                display.status("preparing pairs")
                tokenizer = load_tokenizer(source, console.note)
                pairs = prepare_pairs(plan, tokenizer, console, is_smoke=max_pairs is not None)
                display.total = count_steps(plan, min(len(pairs.train), max_pairs or len(pairs.train)))
                found = fingerprints(tokenizer, pairs)
                refuse_before_load(rundir, found, pairs, weights, allow_changed)
                display.status("loading model")
                model = load_base(source, plan.quantization, weights_device(plan), console.note)
                display.status("reading the digests of the weights")
                found["weights"] = weights.result()
            accept_inputs(rundir, found, pairs, checkpoint, console, allow_changed)
            rundir.write_plan(plan)
            record_data(rundir, plan, pairs)
            if max_pairs is not None:
                pairs = pairs.shortest(max_pairs)
                console.note(f"training on the {len(pairs.train)} shortest pairs")
            resize_embeddings(model, tokenizer)
            inputs = TrainingInputs(model, tokenizer, pairs.train, pairs.eval)
            rundir.write_run(**provenance(model, pairs.report.as_dict()), fingerprints=found)
        train_loaded(plan, rundir, inputs, checkpoint, display, push, callbacks)


def train_loaded(
    plan: Plan,
    rundir: RunDir,
    inputs: TrainingInputs,
    checkpoint: Path | None,
    display: TrainingDisplay,
    push: PushCallback | None,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Train a loaded model, save the result, write the model card, and push."""
    from orpo_cli.card.model_card import write_card
    from orpo_cli.training.train import train

    with ExitStack() as stack:
        if push is not None:  # wait for uploads in progress, also after an error
            stack.push(lambda error, *_: push.wait_for_pending(interrupted=error is not None))
            stack.enter_context(
                recording_interruption(rundir)
            )  # before the wait, in which a scheduler may kill the process
        try:  # makes the trainer, trains, and saves the adapter or the model
            train(plan, rundir, inputs, display, checkpoint, [*callbacks, *([push] if push else [])])
        finally:  # also after a signal that arrived while the result was saved
            if rundir.writes and rundir.is_run() and rundir.status() == FINISHED:
                display.status("writing the model card")
                rundir.check_owned()
                with interruption.uninterrupted():
                    write_card(rundir)
    if push is not None:
        display.status("pushing the result")
        push.push_result()


def open_push(plan: Plan, rundir: RunDir, console: Console) -> PushCallback | None:
    """The push of checkpoints and result during training; None where the plan has none."""
    if not plan.training.get("push_to_hub"):
        return None
    from orpo_cli.hub.push_during_training import PushCallback

    return PushCallback(plan, rundir, console.note, console.problem)
