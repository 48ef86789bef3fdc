"""Parent of several ranks: prepares the run, starts the processes, waits for them, and reports the first error of any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli import interruption
from orpo_cli.errors import Interrupted, MachineError, OrpoError, UsageError
from orpo_cli.launch.command import wait_seconds, worker_command
from orpo_cli.launch.environment import LAUNCHED, worker_variables
from orpo_cli.launch.failure import FailureRecord, machine_of
from orpo_cli.planning.plan import LaunchPlan, ModelPlan, Plan
from orpo_cli.report.console import Console
from orpo_cli.report.progress import show_status
from orpo_cli.run_attempts import FINISHED, command_began
from orpo_cli.run_log import run_log
from orpo_cli.rundir import RunDir
from orpo_cli.temporary_directory import temporary_directory
from orpo_cli.workflows.attempt_end import ending_attempt_on_error
from orpo_cli.workflows.run_inputs import accept_inputs, prepare_pairs, record_data, refuse_before_load
from orpo_cli.workflows.train_plan import open_push

if TYPE_CHECKING:
    from orpo_cli.launch.agent import Outcome
    from orpo_cli.launch.control import Control, Job
    from orpo_cli.model.model_source import ModelSource
    from orpo_cli.training.resume import Input

LOCALHOST = "127.0.0.1"


def train_on_ranks(
    plan: Plan,
    source: ModelSource[ModelPlan],
    rundir: RunDir,
    checkpoint: Path | None,
    console: Console,
    *,
    allow_changed: Sequence[Input] = (),
) -> None:
    """Prepare the pairs, and train the plan in several processes, which save the result and write the model card.

    Raises the error of the first rank that failed; run.json records it.
    """
    from orpo_cli.launch.control import Control

    launch = plan.launch
    with ExitStack() as stack:
        with ending_attempt_on_error(rundir):
            control = Control.host(launch.main_process_ip or LOCALHOST, launch.main_process_port)
            with telling_other_machines(control, 0):
                folder = stack.enter_context(temporary_directory("pairs"))
                with show_status(console) as status:
                    status("preparing pairs")
                    prepare_inputs(plan, source, rundir, checkpoint, console, allow_changed, folder)
                control.publish_job(job_of(rundir, checkpoint, console))
                control.publish_pairs(0, folder)
                if launch.num_machines > 1:
                    console.note(
                        f"waiting for {launch.num_machines - 1} other machines at {launch.main_process_ip}:{control.port}"
                    )
                    control.wait_for_machines(launch.num_machines, wait_seconds(launch))
            console.note(f"starting {launch.num_processes} processes; their logs are in {rank_logs(rundir)}")
        _launch(launch, control, rundir)


def train_on_other_machine(plan: Plan, source: ModelSource[ModelPlan], console: Console) -> RunDir:
    """On another machine than the first one: prepare the same pairs, and train in the run that the first machine has opened.

    ``plan``: of the recipe on this machine. Raises the error of the first rank that failed.
    """
    from orpo_cli.data.shared_pairs import save_pairs
    from orpo_cli.launch.control import Control
    from orpo_cli.model.tokenizer import load_tokenizer
    from orpo_cli.model.weight_files import BaseDigests

    launch, machine_rank = plan.launch, plan.launch.machine_rank or 0
    address = launch.main_process_ip or LOCALHOST
    console.note(f"machine {machine_rank} of {launch.num_machines}: waiting for machine 0 at {address}")
    control = Control.connect(address, launch.main_process_port, wait_seconds(launch))
    with temporary_directory("pairs") as folder:
        with telling_other_machines(control, machine_rank):
            control.join(machine_rank)
            job = control.job()
            assert job is not None  # machine 0 starts the others, or fails
            rundir = _shared_run(job)
            with BaseDigests(source) as weights, show_status(console) as status:
                status("preparing pairs")
                tokenizer = load_tokenizer(source, console.note)
                pairs = prepare_pairs(plan, tokenizer, console)
                weights.result()  # downloads the weights of a model on the hub
            recorded = rundir.read_run()["fingerprints"]["data"]
            if any(recorded[part]["digest"] != digest for part, digest in pairs.report.fingerprints.items()):
                raise UsageError(
                    f"the pairs on machine {machine_rank} are others than those on machine 0.",
                    remedy="Give all machines the same recipe and the same data.",
                )
            save_pairs(pairs, folder)
            control.publish_pairs(machine_rank, folder)
            control.wait_for_machines(launch.num_machines, wait_seconds(launch))
        _launch(launch, control, rundir)
    return rundir


def _shared_run(job: Job) -> RunDir:
    """The run that machine 0 has opened, on a shared disk."""
    rundir = RunDir(Path(job.run))
    if not rundir.has_token(job.token):
        raise MachineError(
            f"{job.run}: machine 0 has opened this run, and it is not there on this machine.",
            remedy="Put output_dir on a disk that all machines share.",
        )
    return rundir


@contextmanager
def telling_other_machines(control: Control, machine_rank: int) -> Iterator[None]:
    """Context in which an error of this process is recorded in the store of the job: other processes wait for it."""
    from orpo_cli.launch.control import StoreLost

    try:
        yield
    except BaseException as error:
        with suppress(StoreLost):
            control.record_failure(FailureRecord.of(error, machine_of(machine_rank), 0))
        raise


def rank_logs(rundir: RunDir) -> Path:
    """The folder of the logs of the ranks of this attempt."""
    return rundir.logs / f"attempt-{rundir.attempt}"


def prepare_inputs(
    plan: Plan,
    source: ModelSource[ModelPlan],
    rundir: RunDir,
    checkpoint: Path | None,
    console: Console,
    allow_changed: Sequence[Input],
    folder: Path,
) -> None:
    """Write the pairs to ``folder``, compare all inputs with those of a resumed run, and write plan and data report.

    The weights are only read, or downloaded, so that each rank finds them.
    """
    from orpo_cli.data.shared_pairs import save_pairs
    from orpo_cli.model.tokenizer import load_tokenizer
    from orpo_cli.model.weight_files import BaseDigests
    from orpo_cli.training.fingerprints import fingerprints

    push = open_push(plan, rundir, console)
    if push is not None:
        push.check_access(resumed=checkpoint is not None)
    with BaseDigests(source) as weights:
        tokenizer = load_tokenizer(source, console.note)
        pairs = prepare_pairs(plan, tokenizer, console)
        found = fingerprints(tokenizer, pairs)
        refuse_before_load(rundir, found, pairs, weights, allow_changed)
        found["weights"] = weights.result()
    accept_inputs(rundir, found, pairs, checkpoint, console, allow_changed)
    save_pairs(pairs, folder)
    rundir.write_plan(plan)
    record_data(rundir, plan, pairs)
    rundir.write_run(fingerprints=found)


def job_of(rundir: RunDir, checkpoint: Path | None, console: Console) -> Job:
    """The orders for the ranks of a run that this process owns."""
    from orpo_cli.launch.control import Job

    assert rundir.lock is not None
    return Job(
        run=str(rundir.root),
        token=rundir.lock.token,
        attempt=rundir.attempt,
        checkpoint=None if checkpoint is None else str(checkpoint),
        started=command_began(),
        quiet=console.quiet or console.log_only,
    )


def _launch(launch: LaunchPlan, control: Control, rundir: RunDir) -> None:
    """Start the processes of this machine, and wait for their end. Raises the error of the first rank that failed."""
    from orpo_cli.launch.agent import LaunchRequest, launch_workers

    request = LaunchRequest(
        command=worker_command(["train", str(rundir.recipe)]),  # also where another command or a program trains
        processes=launch.num_processes // launch.num_machines,
        address=launch.main_process_ip or LOCALHOST,
        port=control.port,
        machine_rank=launch.machine_rank or 0,
        machines=launch.num_machines,
        variables={**worker_variables(launch), LAUNCHED: "1"},
        monitor_interval=launch.monitor_interval,
    )
    with interruption.until_complete(lambda name: run_log.write(f"{name}: forwarded to the processes")):
        _raise_failure(launch_workers(request, control, launch.num_processes), launch.num_processes, rundir)


def _raise_failure(outcome: Outcome, num_processes: int, rundir: RunDir) -> None:
    """Raise the failure. The process that owns the run records it in run.json, unless the run has finished before."""
    from orpo_cli.training.failed_attempt import record_failure

    if outcome.failure is None:
        return
    error = outcome.failure.error(num_processes)
    if isinstance(error, Interrupted):
        interruption.request(outcome.failure.cause or "KeyboardInterrupt")
        raise error
    finished = False
    with suppress(OSError, OrpoError):
        finished = rundir.status() == FINISHED
    if rundir.lock is not None and not finished:
        record_failure(rundir, error, outcome.step)
    raise error
