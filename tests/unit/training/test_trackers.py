"""Trackers: they get every metric and the plan, and none that fails, hangs or asks for a key stops or delays a run."""

from __future__ import annotations

import getpass
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from datasets import Dataset
from support.tiny import tiny_llama, tiny_tokenizer, write_recipe
from transformers import TrainerCallback
from transformers.integrations import INTEGRATION_TO_CALLBACK

from orpo_cli.data.prepare import prepare
from orpo_cli.errors import Problem, RunError
from orpo_cli.machine import probe
from orpo_cli.planning.plan import Plan
from orpo_cli.planning.resolve import resolve
from orpo_cli.recipe.load import load_recipe
from orpo_cli.run_creation import create_run
from orpo_cli.rundir import RecipeTexts, RunDir
from orpo_cli.training import trackers
from orpo_cli.training.make_trainer import TrainingInputs
from orpo_cli.training.tracker_runs import flatten
from orpo_cli.training.train import trackers_read_checkpoints, train

STEPS = 2


@pytest.mark.parametrize(
    ("report_to", "log_model", "expected"),
    [
        ([], "", False),
        (["tensorboard", "wandb"], "", False),
        (["wandb"], "checkpoint", True),
        (["tensorboard", "mlflow"], "", True),
    ],
)
def test_a_tracker_that_may_upload_checkpoints_is_recognized(
    report_to: list[str], log_model: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_LOG_MODEL", log_model)
    assert trackers_read_checkpoints(report_to) is expected


class Observer:
    """What a training reports."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.problems: list[Problem] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, problem: Problem) -> None:
        self.problems.append(problem)

    def status(self, text: str, detail: str = "") -> None:
        pass

    def begin(self, *_: object) -> None:
        pass

    def progress(self, step: int, total: int) -> None:
        pass

    def show_metrics(self, record: dict[str, Any]) -> None:
        pass


class Recorder(TrainerCallback):
    """A tracker that keeps what it gets. ``fault``: what it does in the event ``fault_in``."""

    made: ClassVar[list[Recorder]] = []
    fault: ClassVar[Callable[[], object]] = staticmethod(lambda: None)
    fault_in = "none"

    def __init__(self) -> None:
        self.events: list[str] = []
        self.logs: list[tuple[int, dict[str, float]]] = []
        self.threads: set[str] = set()
        Recorder.made.append(self)
        self.reach("made")

    def reach(self, event: str) -> None:
        self.events.append(event)
        self.threads.add(threading.current_thread().name)
        if event == Recorder.fault_in:
            Recorder.fault()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.config, self.name = args.to_dict(), args.run_name
        self.reach("begin")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.logs.append((state.global_step, logs))
        control.should_training_stop = True  # which a tracker must not be able to do
        self.reach("log")

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.reach("end")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset, Dataset | None]:
    folder = tmp_path_factory.mktemp("trackers")
    plan = resolve(load_recipe(str(write_recipe(folder, estimated=False))), probe())
    prepared = prepare(plan.dataset, tiny_tokenizer(), max_length=192, max_prompt_length=96, note=print)
    return folder, prepared.train, prepared.eval


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    """The recorder in place of swanlab, whose run begins in transformers' callback."""
    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "swanlab", Recorder)
    for name, value in (("made", []), ("fault_in", "none"), ("fault", staticmethod(lambda: None))):
        monkeypatch.setattr(Recorder, name, value)
    return Recorder


def planned(data: tuple[Path, Dataset, Dataset | None], output: Path, **training: Any) -> tuple[Plan, RecipeTexts]:
    settings = {"report_to": "swanlab", "eval_strategy": "steps", "eval_steps": STEPS, **training}
    recipe = write_recipe(data[0], steps=STEPS, estimated=False, training=settings)
    loaded = load_recipe(str(recipe), [f"output_dir={output}", "name=tracked", "tags=[first]"])
    return resolve(loaded, probe()), RecipeTexts(loaded.files[0].text, loaded.files[0].text)


def trained(
    data: tuple[Path, Dataset, Dataset | None], output: Path, observer: Observer | None = None, **training: Any
) -> tuple[RunDir, Observer]:
    plan, text = planned(data, output, **training)
    observer = observer or Observer()
    with create_run(plan, text) as rundir:
        train(plan, rundir, TrainingInputs(tiny_llama(), tiny_tokenizer(), data[1], data[2]), observer)
    return rundir, observer


def numbers(record: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in record.items() if isinstance(value, int | float) and name != "step"}


def test_a_tracker_gets_every_metric_the_plan_and_the_name(
    data: tuple[Path, Dataset, Dataset | None], tmp_path: Path, recorder: type[Recorder]
) -> None:
    rundir, observer = trained(data, tmp_path / "run")
    (tracker,) = recorder.made
    lines = [json.loads(line) for line in rundir.metrics.read_text().splitlines()]
    metrics = [line for line in lines if line.get("kind") != "event"]
    assert tracker.logs == [(line["step"], numbers(line)) for line in metrics]
    assert any("eval_loss" in logs for _, logs in tracker.logs)
    assert any("tokens_per_second" in logs for _, logs in tracker.logs)
    plan = rundir.read_plan()
    assert tracker.config == plan.values()
    assert tracker.name == "tracked"
    assert tracker.config["tags"] == ["first"]
    assert tracker.events[:2] == ["made", "begin"]
    assert tracker.events[-1] == "end"
    assert tracker.threads == {"tracker-swanlab"}
    assert observer.problems == []
    assert rundir.read_run()["steps"] == STEPS


def fail() -> None:
    raise SystemExit("no server")


@pytest.mark.parametrize("event", ["made", "begin", "log", "end"])
def test_a_tracker_that_fails_is_switched_off_with_one_warning(
    event: str,
    data: tuple[Path, Dataset, Dataset | None],
    tmp_path: Path,
    recorder: type[Recorder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recorder, "fault_in", event)
    monkeypatch.setattr(recorder, "fault", staticmethod(fail))
    rundir, observer = trained(data, tmp_path / "run")
    (problem,) = observer.problems
    assert problem.code == "tracker-failed"
    assert "swanlab is switched off: no server" in problem.message
    assert rundir.read_run()["status"] == "finished"
    (tracker,) = recorder.made
    assert tracker.events.count(event) == 1
    assert tracker.events[-1] == event


@pytest.mark.parametrize("event", ["begin", "log", "end"])
def test_a_tracker_that_hangs_does_not_delay_the_run(
    event: str,
    data: tuple[Path, Dataset, Dataset | None],
    tmp_path: Path,
    recorder: type[Recorder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = threading.Event()
    monkeypatch.setattr(recorder, "fault_in", event)
    monkeypatch.setattr(recorder, "fault", staticmethod(released.wait))
    monkeypatch.setattr(trackers, "START_SECONDS", 0.2)
    monkeypatch.setattr(trackers, "FINISH_SECONDS", 0.2)
    before = time.monotonic()
    rundir, observer = trained(data, tmp_path / "run")
    assert time.monotonic() - before < 60
    released.set()
    assert rundir.read_run()["status"] == "finished"
    assert {problem.code for problem in observer.problems} == {"tracker-failed"}
    assert len(observer.problems) == (2 if event == "begin" else 1)  # not started; not all metrics


@pytest.mark.parametrize("ask", [lambda: input("Key: "), lambda: getpass.getpass()], ids=["input", "getpass"])
def test_a_tracker_cannot_ask_for_a_key(
    ask: Callable[[], str],
    data: tuple[Path, Dataset, Dataset | None],
    tmp_path: Path,
    recorder: type[Recorder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recorder, "fault_in", "begin")
    monkeypatch.setattr(recorder, "fault", staticmethod(ask))
    stdin, function = sys.stdin, getpass.getpass
    rundir, observer = trained(data, tmp_path / "run")
    assert [problem.code for problem in observer.problems] == ["tracker-failed"]
    assert rundir.read_run()["status"] == "finished"
    assert (sys.stdin, getpass.getpass) == (stdin, function)


def test_a_failed_training_ends_its_trackers(
    data: tuple[Path, Dataset, Dataset | None],
    tmp_path: Path,
    recorder: type[Recorder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[bool] = []
    monkeypatch.setattr(trackers, "start_run", lambda *_: trackers.StartedRun(finish=ended.append))
    with pytest.raises(RunError):
        trained(data, tmp_path / "run", learning_rate=1e30, max_grad_norm=0.0)
    assert ended == [True]
    assert threading.active_count() < 50


def test_no_tracker_sees_a_secret(
    data: tuple[Path, Dataset, Dataset | None],
    tmp_path: Path,
    recorder: type[Recorder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = "plantedSecretValue123"
    monkeypatch.setenv("OTHER_TOKEN", secret)
    write_recipe(data[0])
    loaded = load_recipe(str(data[0] / "recipe.yaml"), ["model.token=${OTHER_TOKEN}", f"output_dir={tmp_path / 'run'}"])
    plan = resolve(loaded, probe())
    assert plan.model.token == secret
    with create_run(plan, RecipeTexts("", "")) as rundir:
        assert secret not in repr(trackers.tracked_run(plan, rundir, 0))
    trained(data, tmp_path / "other", project=f"p-{secret}")
    (tracker,) = recorder.made
    assert secret not in json.dumps(tracker.config)


def test_tensorboard_has_every_metric_and_continues_the_curves_of_a_resumed_run(
    data: tuple[Path, Dataset, Dataset | None], tmp_path: Path
) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    plan, text = planned(data, tmp_path / "a run", report_to="tensorboard", save_strategy="steps", save_steps=1)
    observer = Observer()
    inputs = TrainingInputs(tiny_llama(), tiny_tokenizer(), data[1], data[2])
    with create_run(plan, text) as rundir:
        train(plan, rundir, inputs, observer)
        lines = [json.loads(line) for line in rundir.metrics.read_text().splitlines()]
        metrics = [line for line in lines if line.get("kind") != "event"]
        events = accumulators.EventAccumulator(str(rundir.tensorboard)).Reload()
        for line in metrics:
            for name, value in numbers(line).items():
                tag = f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}"
                found = [event.value for event in events.Scalars(tag) if event.step == line["step"]]
                assert any(each == pytest.approx(value, rel=1e-6) for each in found), tag
        rundir.write_run(attempts=[*rundir.read_run()["attempts"], {"number": 2, "from_step": 1}])
        inputs = TrainingInputs(tiny_llama(), tiny_tokenizer(), data[1], data[2])
        train(plan, rundir, inputs, observer, rundir.checkpoints / "checkpoint-1")
        events = accumulators.EventAccumulator(str(rundir.tensorboard)).Reload()
        assert [event.step for event in events.Scalars("train/loss")] == [1, 2]
    assert any(f"tensorboard --logdir {str(rundir.tensorboard)!r}" in note for note in observer.notes)
    assert observer.problems == []


def test_tensorboard_writes_to_the_folder_of_the_recipe(
    data: tuple[Path, Dataset, Dataset | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    trained(data, tmp_path / "run", report_to="tensorboard", logging_dir="curves")
    assert list((tmp_path / "curves").glob("events.out.tfevents.*"))


def test_nested_values_have_dotted_names() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": {}, "f": None}) == {"a.b": 1, "a.c.d": [2], "e": {}, "f": None}
