"""Sections of the report page: what they say about complete, old and damaged runs."""

from __future__ import annotations

import json
from pathlib import Path

from support.json_lines import write_json_lines
from support.recorded_runs import event_line, train_line, write_recorded_run

from orpo_cli.report.comparisons import MAX_COMPARED_RUNS
from orpo_cli.report.page.sections import sections
from orpo_cli.report.run_differences import run_labels
from orpo_cli.report.run_history import read_history


def test_labels_are_short_and_different(tmp_path: Path) -> None:
    rates = [
        write_recorded_run(tmp_path / f"r{rate}", values={"training.learning_rate": (rate, "override")})
        for rate in (1e-5, 5e-5)
    ]
    assert run_labels([read_history(run) for run in rates]) == ["learning_rate=1e-05", "learning_rate=5e-05"]
    same = [write_recorded_run(tmp_path / name) for name in ("a", "b")]
    assert run_labels([read_history(run) for run in same]) == ["a", "b"]
    named = [write_recorded_run(tmp_path / f"n{name}", run={"name": name}) for name in ("one", "two")]
    assert run_labels([read_history(run) for run in named]) == ["one", "two"]
    nested = [write_recorded_run(tmp_path / name / "run") for name in ("x", "y")]
    assert run_labels([read_history(run) for run in nested]) == [str(run) for run in nested]
    assert run_labels([read_history(same[0])]) == ["recipe"]


def test_comparisons_on_the_same_pairs(tmp_path: Path) -> None:
    runs = [write_recorded_run(tmp_path / name) for name in ("a", "b", "c")]
    for run, tuned in zip(runs[:2], ([1.0, -1.0], [1.0, 2.0]), strict=True):
        lines = [(0, [-1.0, -1.0]), (20, tuned)]
        write_json_lines(
            run / "eval_scores.jsonl",
            [
                {"step": step, "pairs": ["x:1", "x:2"], "chosen": margins, "rejected": [0.0, 0.0]}
                for step, margins in lines
            ],
        )
    found = sections([read_history(run) for run in runs])["comparisons"]
    assert [each["title"] for each in found] == [
        "a against its base model",
        "b against its base model",
        "Against the base model",
        "b against a",
        "c against a",
    ]
    assert "Not compared: c." in found[2]["reason"]
    second = found[3]
    assert (second["first"], second["second"], second["pairs"], second["won"], second["lost"]) == ("a", "b", 2, 1, 0)
    assert second["margin_low"] <= second["margin_change"] == 1.5 <= second["margin_high"]
    assert "orpo eval" in found[4]["reason"]


def test_runs_that_are_not_compared_are_counted(tmp_path: Path) -> None:
    runs = [write_recorded_run(tmp_path / f"r{number:02}") for number in range(MAX_COMPARED_RUNS + 2)]
    for run in runs:
        scores = {"step": 0, "pairs": ["x:1", "x:2"], "chosen": [1.0, -1.0], "rejected": [0.0, 0.0]}
        write_json_lines(run / "eval_scores.jsonl", [scores, {**scores, "step": 20}])
    found = sections([read_history(run) for run in runs])["comparisons"]
    assert [(each["title"], each["reason"]) for each in found if "reason" in each] == [
        ("Further runs against the base model", "Not compared: 2 of 12 runs. orpo report RUN compares one."),
        ("Further runs against r00", "Not compared: 2 of 12 runs. orpo report RUN RUN compares two."),
    ]
    assert len(found) == MAX_COMPARED_RUNS + MAX_COMPARED_RUNS - 1 + 2


def test_answers_to_the_same_prompt_are_together_with_the_base_first(tmp_path: Path) -> None:
    runs = [write_recorded_run(tmp_path / name) for name in ("a", "b")]
    for run in runs:
        answers = [
            {"prompt": f"only {run.name}", "base": {"text": "?"}, "tuned": {"text": "!"}},
            {"prompt": "both", "base": {"text": "base"}, "tuned": {"text": f"of {run.name}"}},
            {"prompt": 3}, "damaged",
        ]  # fmt: skip
        (run / "samples.json").write_text(json.dumps({"answers": answers}))
    found = sections([read_history(run) for run in runs])["samples"]
    assert [each["prompt"] for each in found] == ["both", "only a", "only b"]
    assert found[0]["answers"] == [
        {"label": "base", "text": "base"},
        {"label": "a", "text": "of a"},
        {"label": "b", "text": "of b"},
    ]


def test_plan_data_environment_findings(tmp_path: Path) -> None:
    run = write_recorded_run(
        tmp_path / "run",
        values={"launch.pairs_per_step": (8, "decided")},
        run={
            "estimate": {"memory_gb": 2.0, "seconds_per_step": 5, "evaluation_seconds": 20.0}, "versions": {"torch": "2.13.0"}, "command": ["/opt/bin/orpo", "train", "x y"],
            "machine": {"devices": ["H100"], "processor": "p", "memory_gb": 64.0},
        },
    )  # fmt: skip
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(event_line("watchdog", 7, code="loss-spike", message="<b>")) + "\n")
    found = sections([read_history(run)])
    rows = {row["name"]: (row["planned"], row["measured"]) for row in found["plan"][0]}
    assert rows["steps"] == ("20", "20")
    assert rows["pairs"] == ("160", "160")
    assert rows["peak memory"] == ("2.00 GB", "1.75 GB")
    assert rows["time"] == ("2 min 00 s", "1 min 02 s")
    assert rows["tokens per second"] == ("", "512")
    assert ["training pairs", "80"] in found["data"][0]
    environment = dict(found["environment"][0])
    assert (environment["devices"], environment["memory"], environment["torch"]) == ("H100", "64.0 GB", "2.13.0")
    assert environment["command"] == "orpo train 'x y'"
    assert "device memory" not in environment
    assert found["findings"] == [[{"step": 7, "code": "loss-spike", "message": "<b>"}]]
    assert found["recipe"][0].startswith("model:")


def test_runs_of_older_versions_are_watched_now(tmp_path: Path) -> None:
    run = write_recorded_run(tmp_path / "run", versioned=False)
    losses = [50.0 if 60 <= step < 70 else 2.0 + step % 3 / 100 for step in range(1, 121)]
    write_json_lines(
        run / "metrics.jsonl", [train_line(step, versioned=False, loss=loss) for step, loss in enumerate(losses, 1)]
    )
    (found,) = sections([read_history(run)])["findings"]
    assert "loss-spike" in [each["code"] for each in found]
    assert all({"step", "code", "message"} <= each.keys() for each in found)


def test_differences_of_recipe_and_environment(tmp_path: Path) -> None:
    changes = [("1.0", 0.1), ("2.0", 0.5)]
    runs = [
        write_recorded_run(
            tmp_path / torch, values={"training.beta": (beta, "recipe")}, run={"versions": {"torch": torch, "trl": "1"}}
        )
        for torch, beta in changes
    ]
    found = sections([read_history(run) for run in runs])["differences"]
    assert found == {
        "columns": ["beta=0.1", "beta=0.5"],
        "rows": [["training.beta", "0.1", "0.5"], ["torch", "1.0", "2.0"]],
    }


def test_a_damaged_run_has_sections_too(tmp_path: Path) -> None:
    run = write_recorded_run(tmp_path / "run")
    for name in ("plan.json", "data_report.json", "metrics.jsonl", "samples.json"):
        (run / name).write_text("{")
    found = sections([read_history(run)])
    assert (found["samples"], found["findings"], found["differences"]["rows"]) == ([], [[]], [])


def test_a_run_of_a_version_without_events_is_checked_by_the_watchdogs(tmp_path: Path) -> None:
    run = write_recorded_run(tmp_path / "run", versioned=False)
    spike = [train_line(step, versioned=False, loss=2.0 if step <= 30 else 9.0) for step in range(1, 40)]
    write_json_lines(run / "metrics.jsonl", spike)
    ((finding,),) = sections([read_history(run)])["findings"]
    assert (finding["code"], finding["step"]) == ("loss-spike", 35)
    assert "loss has been above 9 since step 31" in finding["message"]
