"""Run history: what is read of complete, old, running and damaged runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.json_lines import write_json_lines
from support.recorded_runs import PAIRS, eval_line, event_line, train_line, write_recorded_run

from orpo_cli.errors import UsageError
from orpo_cli.report.find_runs import find_runs
from orpo_cli.report.run_differences import changed_keys
from orpo_cli.report.run_history import kind_of, read_history
from orpo_cli.run_lock import RunLock
from orpo_cli.statistics import wilson_interval


def test_a_finished_run_is_read_completely(tmp_path: Path) -> None:
    history = read_history(write_recorded_run(tmp_path / "run"))
    assert (history.name, history.status, history.steps, history.total_steps) == ("recipe", "finished", 20, 20)
    assert [record["step"] for record in history.train] == list(range(1, 21))
    assert [record["step"] for record in history.evals] == [0, 10, 20]
    assert [record["event"] for record in history.events] == ["attempt", "end"]
    assert history.last_train["step"] == 20
    assert (history.values["training.beta"], history.origins["training.beta"]) == (0.1, "decided")
    assert history.plan["training"]["beta"]["reason"] == "a reason"
    assert history.recipe.startswith("model:")
    assert (history.samples, history.evaluation, history.scores, history.problems) == ({}, {}, [], [])


def test_base_best_and_last_evaluation(tmp_path: Path) -> None:
    history = read_history(write_recorded_run(tmp_path / "run", accuracies=(0.9, 0.625, 0.75, 0.75, 0.5)))
    assert history.base_eval["eval_rewards/accuracies"] == 0.9
    assert history.best_eval["step"] == 20  # not the base, and the first of equal ones
    assert history.last_eval["step"] == 40
    assert history.accuracy_interval(history.last_eval) == wilson_interval(PAIRS // 2, PAIRS)


def test_the_interval_of_a_weighted_accuracy_has_the_effective_number_of_pairs(tmp_path: Path) -> None:
    run = write_recorded_run(tmp_path / "run")
    report = {"eval_pairs": PAIRS}
    weights = {"min": 0.5, "mean": 1.8, "max": 3.0, "effective_pairs": 12.5}
    (run / "data_report.json").write_text(json.dumps({**report, "weights": {"eval": weights}}))
    history = read_history(run)
    assert history.accuracy_interval(history.last_eval) == wilson_interval(0.75 * 12.5, 12.5)


def test_of_equal_accuracies_the_lower_loss_is_better(tmp_path: Path) -> None:
    run = write_recorded_run(tmp_path / "run")
    write_json_lines(
        run / "metrics.jsonl",
        [eval_line(1, 0.75, eval_loss=2.0), eval_line(2, 0.75, eval_loss=1.0), eval_line(3, 0.75, eval_loss=1.5)],
    )
    assert read_history(run).best_eval["step"] == 2


def test_a_run_of_an_older_version(tmp_path: Path) -> None:
    """Its lines have no kind, and the number of pairs of an evaluation is that of the data report."""
    history = read_history(write_recorded_run(tmp_path / "run", versioned=False))
    assert [record["step"] for record in history.evals] == [10, 20]
    assert len(history.train) == 20
    assert (history.events, history.base_eval, history.total_steps) == ([], {}, None)
    assert history.accuracy_interval(history.last_eval) == wilson_interval(48, PAIRS)


def test_without_evaluations_in_training_those_of_orpo_eval_count(tmp_path: Path) -> None:
    run = write_recorded_run(tmp_path / "run", versioned=False)
    write_json_lines(run / "metrics.jsonl", [train_line(step, versioned=False) for step in range(1, 21)])
    models = {
        "base": {"rewards/accuracies": 0.5, "logps/chosen": -3.0, "logps/rejected": -3.5},
        "tuned": {"rewards/accuracies": 0.875, "logps/chosen": -2.0, "logps/rejected": -4.0, "intervals": {}},
    }
    change = {
        "rewards/accuracies": 0.375,
        "logps/chosen": 1.0,
        "logps/rejected": -0.5,
        "intervals": {"margin": [1.0, 2.0]},
    }
    evaluation = {"data": "held-out", "pairs": 32, "models": models, "change": change}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    history = read_history(run)
    assert (history.metric("change.accuracy"), history.metric("change.margin")) == ([0.375], [1.5])
    assert (history.metric("change.margin_low"), history.metric("change.margin_high")) == ([1.0], [2.0])
    assert {"change.margin", "change.margin_low"} <= set(history.metric_names())
    assert history.evals == []
    assert (history.base_eval["eval_rewards/accuracies"], history.last_eval["step"]) == (0.5, 20)
    assert history.accuracy_interval(history.last_eval) == wilson_interval(28, 32)
    assert history.metric("eval.accuracy") == [0.5, 0.875]
    assert (history.metric("tuned.margin"), history.metric("base.accuracy")) == ([2.0], [0.5])


def test_metrics_by_their_names(tmp_path: Path) -> None:
    history = read_history(write_recorded_run(tmp_path / "run"))
    assert history.metric("eval.accuracy") == history.metric("eval_rewards/accuracies") == [0.5, 0.625, 0.75]
    assert (
        history.metric("loss")
        == history.metric("train.loss")
        == pytest.approx([4.0 - step / 10 for step in range(1, 21)])
    )
    assert history.metric("eval.margin") == pytest.approx([1.5, 1.625, 1.75])  # without beta, unlike rewards/margins
    assert history.metric("eval.rewards/margins") == pytest.approx([0.05, 0.0625, 0.075])
    assert history.metric("run.peak_memory_gb") == [1.75]
    assert history.metric("nonsense") == history.metric("nowhere.loss") == []
    record, value = history.points("eval.loss")[-1]
    assert (record["step"], record["tokens"], value) == (20, 20000, 3.25)
    for name in history.metric_names():
        assert history.metric(name), name


def test_a_run_that_goes_on_and_one_that_was_killed(tmp_path: Path) -> None:
    run = write_recorded_run(tmp_path / "run", status="running")
    assert read_history(run).status == "killed"
    lock = RunLock.acquire(run, lambda text: None)
    try:
        history = read_history(run)
        assert (history.status, history.steps, history.total_steps) == ("running", 20, 20)
    finally:
        lock.release()


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ('{"trials": [{"name": "a", "state": "stopped"}]}', "stopped"),
        ('{"trials": [5]}', "interrupted"),
        ("{", "interrupted"),
    ],
)
def test_a_trial_that_its_sweep_has_stopped(tmp_path: Path, content: str, status: str) -> None:
    run = write_recorded_run(tmp_path / "moved" / "trials" / "a", status="interrupted")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "sweep": {"directory": "/elsewhere", "trial": "a"}}))
    (tmp_path / "moved" / "sweep.json").write_text(content)
    assert read_history(run).status == status


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("run.json", "{", "run.json: cannot be read"),
        ("run.json", "[]", "run.json: not a JSON object"),
        ("plan.json", "\x00", "plan.json: cannot be read"),
        ("plan.json", None, "plan.json is missing"),
        ("evaluation.json", "{]", "evaluation.json: cannot be read"),
    ],
)
def test_damaged_files_are_named_and_the_rest_is_read(
    tmp_path: Path, name: str, content: str | None, problem: str
) -> None:
    run = write_recorded_run(tmp_path / "run")
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_text(content)
    history = read_history(run)
    assert history.last_eval["step"] == 20
    history.plan, history.evaluation  # noqa: B018 (they are read when they are needed)
    assert len(history.problems) == 1
    assert problem in history.problems[0]
    if name == "run.json":
        assert (history.status, history.name) == ("unknown", "recipe")


def test_values_of_a_wrong_type_are_not_trusted(tmp_path: Path) -> None:
    """A record may be edited, or be from another program."""
    run = write_recorded_run(
        tmp_path / "run", run={"name": 3, "steps": "x", "attempts": 5, "seconds": None, "dataset": []}
    )
    (run / "data_report.json").unlink()
    write_json_lines(
        run / "metrics.jsonl",
        [
            {"step": "x", "loss": 1},
            {"loss": 2},
            {"step": 4, "loss": None},
            {"step": 5, "eval_rewards/accuracies": "good"},
        ],
    )
    history = read_history(run)
    assert (history.steps, history.metric("loss"), history.metric("eval.accuracy")) == (4, [], [])
    assert history.accuracy_interval(history.last_eval) is None
    assert (history.data_report, history.evaluation) == ({}, {})


@pytest.mark.parametrize(
    "changes", [{"eval_pairs": 1e300}, {"eval_rewards/accuracies": 1.5}, {"eval_rewards/accuracies": -0.1}]
)
def test_impossible_accuracies_have_no_interval(tmp_path: Path, changes: dict[str, float]) -> None:
    run = write_recorded_run(tmp_path / "run")
    write_json_lines(run / "metrics.jsonl", [eval_line(5, 0.5, **changes)])
    history = read_history(run)
    assert history.accuracy_interval(history.last_eval) is None


def test_torn_and_foreign_lines_are_left_out(tmp_path: Path) -> None:
    run = write_recorded_run(tmp_path / "run")
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_bytes(text.encode() + b'\xff\xfe\nnot json\n[1]\n{"step": 21, "lo')
    history = read_history(run)
    assert (len(history.train), len(history.evals), history.last_train["step"]) == (20, 3, 20)


def test_the_text_of_an_event_does_not_make_it_an_evaluation(tmp_path: Path) -> None:
    run = write_recorded_run(tmp_path / "run")
    write_json_lines(run / "metrics.jsonl", [event_line("watchdog", 3, code="eval_x", message='"eval_loss": 3')])
    history = read_history(run)
    assert (history.evals, [record["code"] for record in history.events]) == ([], ["eval_x"])


def test_a_line_without_a_kind_is_known_by_its_metrics() -> None:
    assert [kind_of(record) for record in ({"loss": 1.0}, {"eval_loss": 1.0}, {"kind": "event"})] == [
        "train",
        "eval",
        "event",
    ]


def test_a_directory_that_is_not_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a run directory"):
        read_history(tmp_path)


def test_runs_are_found_below_and_in_each_other(tmp_path: Path) -> None:
    first = write_recorded_run(tmp_path / "runs" / "a")
    nested = write_recorded_run(first / "second-try")
    deep = write_recorded_run(tmp_path / "runs" / "sweeps" / "b" / "trial-1")
    write_recorded_run(tmp_path / "runs" / ".hidden")
    write_recorded_run(first / "checkpoints" / "checkpoint-1")  # a folder of the run itself
    (tmp_path / "runs" / "latest").symlink_to(deep)
    (tmp_path / "runs" / "loop").symlink_to(tmp_path / "runs")
    assert find_runs([tmp_path / "runs"]) == [first, nested, deep]
    assert find_runs([tmp_path / "runs", first, nested]) == [first, nested, deep]
    assert find_runs([tmp_path / "runs" / "latest"]) == [tmp_path / "runs" / "latest"]
    assert find_runs([tmp_path / "missing"]) == []


def test_only_keys_that_differ_are_changed(tmp_path: Path) -> None:
    changes = [
        {"training.learning_rate": (1e-5, "override")},
        {"training.beta": (0.5, "recipe"), "training.seed": (7, "decided")},
        {"training.learning_rate": (1e-5, "override"), "name": ("other", "recipe"), "hub.repo_id": ("a/b", "recipe")},
    ]
    runs = [write_recorded_run(tmp_path / str(index), values=each) for index, each in enumerate(changes)]
    assert changed_keys([read_history(run) for run in runs]) == [
        {"training.learning_rate": 1e-5, "training.beta": 0.1},
        {"training.learning_rate": 5e-5, "training.beta": 0.5},
        {"training.learning_rate": 1e-5, "training.beta": 0.1},
    ]
    assert changed_keys([read_history(runs[0])]) == [{}]


def test_a_section_or_key_that_a_run_does_not_have(tmp_path: Path) -> None:
    without: dict[str, tuple[object, str]] = {
        "lora": (None, "recipe"), "lora.r": (None, "absent"), "lora.lora_alpha": (None, "absent"),
    }  # fmt: skip
    runs = [
        write_recorded_run(tmp_path / "full", values=without),
        write_recorded_run(tmp_path / "lora", values={"training.label_smoothing": (0.1, "recipe")}),
    ]
    assert changed_keys([read_history(run) for run in runs]) == [
        {"lora": None, "training.label_smoothing": None},
        {"lora": "set", "training.label_smoothing": 0.1},
    ]


def test_a_run_without_a_plan_changes_no_comparison(tmp_path: Path) -> None:
    runs = [write_recorded_run(tmp_path / name) for name in ("a", "b")]
    (runs[1] / "plan.json").unlink()
    assert changed_keys([read_history(run) for run in runs]) == [{}, {}]


def test_reading_imports_nothing_heavy(tmp_path: Path) -> None:
    run = write_recorded_run(tmp_path / "run")
    program = (
        "import sys\nfrom orpo_cli.report.run_history import read_history\nfrom orpo_cli.report import assertions, paired_comparison\n"
        f"assert read_history({str(run)!r}).last_eval\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'numpy', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
