"""One of several ranks: trains the plan of the run directory with the others, on pairs that were prepared once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli import interruption
from orpo_cli.errors import Interrupted, OrpoError
from orpo_cli.estimate.batching import count_steps
from orpo_cli.launch.environment import Ranks, apply_plan
from orpo_cli.launch.failure import FailureRecord, explain, is_secondary
from orpo_cli.planning.plan import ModelPlan, Plan
from orpo_cli.report.console import Console
from orpo_cli.report.progress import show_status
from orpo_cli.run_attempts import BEGAN_VARIABLE
from orpo_cli.run_log import run_log
from orpo_cli.rundir import RunDir
from orpo_cli.temporary_directory import temporary_directory
from orpo_cli.workflows.attempt_end import ending_attempt_on_error
from orpo_cli.workflows.train_plan import open_push, train_loaded
from orpo_cli.workflows.train_ranks import job_of, prepare_inputs

if TYPE_CHECKING:
    from orpo_cli.launch.control import Control, Job
    from orpo_cli.model.model_source import ModelSource
    from orpo_cli.report.live_display import TrainingDisplay
    from orpo_cli.training.resume import Input


@contextmanager
def joined_ranks(ranks: Ranks) -> Iterator[JoinedRank]:
    """Context of one of the ranks of a job. An error is recorded for the parent, or the rank that reports it."""
    from orpo_cli.launch.control import Control
    from orpo_cli.launch.watch import stop_with_parent

    stop_with_parent()
    try:
        control = Control.of_rank(ranks)
    except OrpoError as error:
        error.is_reported = not ranks.is_first
        raise
    rank = JoinedRank(ranks, control)
    try:
        yield rank
    except BaseException as error:
        raise rank.record(error) from error
    rank.leave()


def train_rank(ranks: Ranks) -> None:
    """Train as one of the ranks of a job that another process has prepared."""
    with joined_ranks(ranks) as rank:
        job = rank.control.job()
        if job is None:
            return
        rundir = RunDir(Path(job.run))
        rundir.join(job.token, job.attempt, writes=ranks.is_first)
        train_job(rank, job, rundir)


def lead_ranks(
    plan: Plan,
    source: ModelSource[ModelPlan],
    rundir: RunDir,
    checkpoint: Path | None,
    console: Console,
    *,
    rank: JoinedRank,
    allow_changed: Sequence[Input] = (),
) -> None:
    """As rank 0 of processes that another launcher has started: prepare the run as their parent does, and train with them."""
    from orpo_cli.training.failed_attempt import record_failure

    with temporary_directory("pairs") as folder:
        with ending_attempt_on_error(rundir):
            with show_status(console) as status:
                status("preparing pairs")
                prepare_inputs(plan, source, rundir, checkpoint, console, allow_changed, folder)
            job = job_of(rundir, checkpoint, console)
            rank.control.publish_job(job)
            rank.control.publish_pairs(rank.ranks.machine_rank, folder)
        rundir.ends_attempts = False
        try:
            train_job(rank, job, rundir)
        except BaseException as error:
            explained = explain(error)
            if not isinstance(explained, Interrupted):
                record_failure(rundir, rank.cause(explained), rank.step)
            raise
        finally:
            rundir.ends_attempts = True


class JoinedRank:
    """Rank with its connection to the others. ``display``: of the steps, once the run is known.

    ``standard_error``: a copy of its descriptor, where the one of this process is the log of the rank.
    """

    def __init__(self, ranks: Ranks, control: Control) -> None:
        self.ranks, self.control = ranks, control
        self.display: TrainingDisplay | None = None
        self.standard_error: int | None = None

    def record(self, error: BaseException) -> OrpoError:
        """The error for the command line, after its record is in the store of the job. One process reports it."""
        from orpo_cli.launch.control import StoreLost

        explained = explain(error)
        record = FailureRecord.of(error, self.ranks.rank, self.step)
        with suppress(StoreLost):
            with interruption.uninterrupted():
                if record.secondary:
                    self.control.wait_for_failure()
                first = self.control.record_failure(record)
            if isinstance(error, Interrupted):  # all ranks have agreed to stop, and rank 0 completes the checkpoint
                self.leave()
                first = self.ranks.is_first
            explained.is_reported = not first
            if first and self.standard_error is not None:
                os.dup2(self.standard_error, 2)  # the launcher ends the other ranks before they can report it
        return explained

    @property
    def step(self) -> int:
        """The last step that was completed here."""
        return 0 if self.display is None else self.display.step

    def cause(self, error: OrpoError) -> OrpoError:
        """The error of the rank that failed first, where this one has only lost the connection to it."""
        from orpo_cli.launch.control import StoreLost

        with suppress(StoreLost):
            if is_secondary(error) and (failure := self.control.wait_for_failure()) is not None:
                return failure.error(self.ranks.world_size)
        return error

    def leave(self) -> None:
        """Let the other ranks leave; or wait for rank 0, because a launcher ends all ranks when one has left."""
        if self.ranks.is_first:
            self.control.set_ended()
        else:
            self.control.wait_until_ended()


def train_job(rank: JoinedRank, job: Job, rundir: RunDir) -> None:
    """Train the plan of the run: the model, the trainer, and in rank 0 the result, the model card and pushes."""
    ranks = rank.ranks
    console = Console(quiet=job.quiet, log_only=not ranks.is_first)
    rank.standard_error = _open_log(ranks, rundir)
    plan = rundir.read_plan()
    apply_plan(plan.launch, launched=ranks.launched)
    os.environ[BEGAN_VARIABLE] = str(job.started)

    from orpo_cli.data.shared_pairs import load_pairs
    from orpo_cli.model.added_tokens import resize_embeddings
    from orpo_cli.model.base_model import load_base, weights_device
    from orpo_cli.model.model_source import ModelSource
    from orpo_cli.model.tokenizer import load_tokenizer
    from orpo_cli.report.live_display import TrainingDisplay
    from orpo_cli.training.make_trainer import TrainingInputs
    from orpo_cli.training.provenance import provenance

    display = rank.display = TrainingDisplay(console)
    with display:
        display.status("joining the other processes")
        set_up_strategy(plan, ranks, rank.control)
        source = ModelSource(plan.model)
        tokenizer = load_tokenizer(source, console.note)
        train_pairs, eval_pairs = load_pairs(rank.control.pairs(ranks.machine_rank))
        display.total = count_steps(plan, len(train_pairs))
        display.status("loading model")
        model = load_base(source, plan.quantization, weights_device(plan), console.note)
        resize_embeddings(model, tokenizer)
        if rundir.writes:
            rundir.write_run(**provenance(model, rundir.read_data_report()))
        push = open_push(plan, rundir, console) if rundir.writes else None
        inputs = TrainingInputs(model, tokenizer, train_pairs, eval_pairs)
        checkpoint = None if job.checkpoint is None else Path(job.checkpoint)
        if ranks.is_first:
            rank.control.set_begun()
        train_loaded(plan, rundir, inputs, checkpoint, display, push)


def set_up_strategy(plan: Plan, ranks: Ranks, control: Control) -> None:
    """The device of this rank, and the group of all ranks. The libraries would make it without ``ddp_timeout`` where they train on CPUs."""
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    if plan.device == "cuda":
        torch.cuda.set_device(ranks.local_rank)
    seconds = plan.training.get("ddp_timeout", 1800)
    control.wait_for_ranks(ranks.world_size, seconds)
    # gloo: FSDP2's offload_params leaves weights in host memory
    backend = plan.training.get("ddp_backend") or ("cuda:nccl,cpu:gloo" if plan.device == "cuda" else "gloo")
    dist.init_process_group(backend, timeout=timedelta(seconds=seconds))


def _open_log(ranks: Ranks, rundir: RunDir) -> int | None:
    """Write the log of this rank. Rank 0 has the terminal; what libraries print to standard output goes to standard error.

    Returns a copy of the descriptor of standard error where the log replaces it.
    """
    path = rundir.logs / f"attempt-{rundir.attempt}" / f"rank-{ranks.rank}.log"
    run_log.open(path)
    if ranks.is_first:
        if ranks.launched:
            os.dup2(2, 1)
        return None
    with suppress(OSError):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        before = os.dup(2)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)
        return before
    return None
