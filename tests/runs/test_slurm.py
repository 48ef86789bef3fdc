"""`orpo submit --to slurm` on a cluster of one node: time limit, requeue, an equal result, scancel, log and quoting.

The daemons are those of the test. Skipped where Slurm is not installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from support.metric_lines import metric_lines
from support.signal_phases import digest, status
from support.slurm_cluster import SlurmCluster, missing_for_slurm
from support.tiny import write_recipe

pytestmark = pytest.mark.slow
MISSING = missing_for_slurm()
# A minute or more: Slurm looks at time limits every 30 seconds. By the number of tasks.
STEPS = {1: 4000, 2: 2000}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    if MISSING:
        pytest.skip(f"Slurm: {MISSING}")
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        assert [process for process in cluster.processes() if process.is_running()] == []


def write(folder: Path, steps: int, **launch: object) -> Path:
    training = {"logging_steps": 1, "use_cpu": True, "gradient_accumulation_steps": 2}
    return write_recipe(folder, estimated=False, steps=steps, training=training, launch=launch)


def orpo(folder: Path, *arguments: object, cluster: SlurmCluster | None = None) -> str:
    environment = {**(os.environ if cluster is None else cluster.environment), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "orpo_cli", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def submit(cluster: SlurmCluster, recipe: Path, run: Path, *arguments: str) -> str:
    """Submit a recipe, and return the id of the job."""
    options = ("--to", "slurm", "--json", "--set", f"output_dir={json.dumps(str(run))}", *arguments)
    document = json.loads(orpo(recipe.parent, "submit", recipe, *options, cluster=cluster))
    assert Path(document["path"]).read_text() == document["text"]
    return str(document["job_id"])


def steps_logged(run: Path) -> int:
    return len(metric_lines(run))


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in metric_lines(run)]


def attempts(run: Path) -> list[tuple[str, str | None]]:
    found = json.loads((run / "run.json").read_text())["attempts"]
    return [(each["reason"], each.get("detail")) for each in found]


@pytest.mark.parametrize("tasks", [1, 2])
def test_a_job_saves_before_its_time_limit_is_requeued_and_finishes_with_the_same_weights(
    cluster: SlurmCluster, tmp_path: Path, tasks: int
) -> None:
    """The directory has a space, a quote and a percent sign. Nothing is signalled by hand: the time limit is shortened."""
    run, whole = tmp_path / 'it\'s 100% "mine"' / "run", tmp_path / "uninterrupted"
    recipe = write(
        tmp_path,
        STEPS[tasks],
        num_machines=tasks,
        slurm={"time": "1:00:00", "signal_delay_s": 60, "ntasks_per_node": tasks},
    )
    cluster.wait_for(submit(cluster, recipe, whole), "COMPLETED", 900)
    job = submit(cluster, recipe, run)
    cluster.wait(lambda: steps_logged(run) > 2, 300)
    cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=2")
    cluster.wait(lambda: cluster.job(job)["Restarts"] == "1", 120)
    assert attempts(run) == [("interrupted", "SIGUSR1")]
    cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    cluster.wait_for(job, "COMPLETED", 900)
    assert cluster.job(job)["Restarts"] == "1"
    assert attempts(run)[1:] == [("finished", None)]
    assert losses(run) == losses(whole)
    assert len(losses(run)) == STEPS[tasks]
    assert digest(run) == digest(whole)
    log = (run / "logs" / f"slurm-{job}.log").read_text()
    assert "interrupted (SIGUSR1)" in log
    assert str(run / "adapter") in log


def test_two_tasks_take_the_steps_of_one_process(cluster: SlurmCluster, tmp_path: Path) -> None:
    recipe = write(tmp_path, 12, num_machines=2, slurm={"ntasks_per_node": 2})
    cluster.wait_for(submit(cluster, recipe, tmp_path / "two"), "COMPLETED", 300)
    orpo(tmp_path, "train", recipe, "--set", f"output_dir={tmp_path}/one", "--set", "launch.num_machines=1", "--quiet")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


def test_a_signal_before_the_first_step_requeues_a_job_that_has_no_run(cluster: SlurmCluster, tmp_path: Path) -> None:
    """The run is removed, and the log that Slurm has open stays."""
    recipe, run = write(tmp_path, 2), tmp_path / "run"
    job = submit(cluster, recipe, run)
    cluster.wait(lambda: (run / "run.json").is_file(), 300)
    cluster.run("scancel", "--signal=USR1", job)
    cluster.wait_for(job, "COMPLETED", 300)
    assert status(run) == "finished"
    log = (run / "logs" / f"slurm-{job}.log").read_text()
    if cluster.job(job)["Restarts"] == "1":  # unless the first step was faster than the signal
        assert "there was no step yet" in log or len(attempts(run)) == 2


@pytest.mark.parametrize("tasks", [1, 2])
def test_scancel_saves_a_checkpoint_and_does_not_requeue(cluster: SlurmCluster, tmp_path: Path, tasks: int) -> None:
    recipe, run = write(tmp_path, 50_000, num_machines=tasks, slurm={"ntasks_per_node": tasks}), tmp_path / "run"
    job = submit(cluster, recipe, run)
    cluster.wait(lambda: steps_logged(run) > 2, 300)
    cluster.run("scancel", job)
    cluster.wait(lambda: cluster.run("squeue", "--noheader") == "", 120)
    assert cluster.job(job)["JobState"] == "CANCELLED"
    assert cluster.job(job)["Restarts"] == "0"
    assert status(run) == "interrupted"
    step = max(int(path.name.rpartition("-")[2]) for path in (run / "checkpoints").glob("checkpoint-*"))
    again = submit(cluster, recipe, run, "--set", f"training.max_steps={step + 300}")
    cluster.wait(lambda: steps_logged(run) > step + 2, 300)
    cluster.run("scontrol", "requeue", again)  # as Slurm does it after a preemption
    cluster.wait(lambda: cluster.job(again)["Restarts"] == "1", 120)
    cluster.wait_for(again, "COMPLETED", 300)
    assert status(run) == "finished"
    assert steps_logged(run) == step + 300


def test_a_killed_task_ends_the_job_with_a_checkpoint(cluster: SlurmCluster, tmp_path: Path) -> None:
    recipe, run = write(tmp_path, 50_000, num_machines=2, slurm={"ntasks_per_node": 2}), tmp_path / "run"
    job = submit(cluster, recipe, run)
    cluster.wait(lambda: steps_logged(run) > 2, 300)
    for process in cluster.processes():
        with suppress(psutil.Error):
            variables = process.environ()
            if variables.get("SLURM_PROCID") == "1" and "orpo_cli" in process.cmdline() and "RANK" not in variables:
                process.kill()  # the parent of machine 1, and not its rank
    cluster.wait_for(job, "FAILED", 60)
    assert cluster.job(job)["Restarts"] == "0"
    assert list((run / "checkpoints").glob("checkpoint-*"))


def test_a_failed_training_fails_the_job(cluster: SlurmCluster, tmp_path: Path) -> None:
    recipe, run = write(tmp_path, 2, slurm={"setup": ["echo set up"], "extra": ["--comment=test"]}), tmp_path / "run"
    job = submit(cluster, recipe, run, "--set", "dataset.train.path=gone.jsonl")
    cluster.wait_for(job, "FAILED", 300)
    assert cluster.job(job)["ExitCode"].startswith(("2:", "4:"))
    assert cluster.job(job)["Comment"] == "test"
    assert "set up" in (run / "logs" / f"slurm-{job}.log").read_text()
    assert orpo(tmp_path, "train", recipe, "--set", f"output_dir={run}", "--quiet")  # the directory is free
