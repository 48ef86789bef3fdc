"""Damaged files of a run: every reader names the file, what is wrong and what to do, and no error is a bug."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.card_run import REPORT, make_card_run

from orpo_cli.card.model_card import render_card
from orpo_cli.errors import UsageError
from orpo_cli.run_records import write_record
from orpo_cli.rundir import RunDir
from orpo_cli.workflows.repair_run import repair_records

DAMAGES: dict[str, bytes] = {
    "empty": b"", "object": b"{}", "list": b"[]", "truncated": b'{"status": "finis', "binary": b"\x80\x81\x00\xff",
    "zeros": b"\0" * 200, "deep": b"[" * 100_000, "text": b"hello", "null": b"null", "number": b"7",
}  # fmt: skip
WRONG_TYPES: dict[str, list[Any]] = {
    "run.json": [{"status": 3}, {"status": "finished", "steps": "ten"}, {"status": "finished", "versions": []},
                 {"status": "finished", "attempts": {}}, {"status": "finished", "attempts": [{"number": "x"}]}, {"status": "failed", "model": 7}],
    "data_report.json": [{"sources": {}}, {"sources": [3]}, {"train_pairs": "many"}, {"dropped": ["a"]}, {"fingerprints": "x"}, {"max_length": []}],
    "evaluation.json": [{"models": []}, {"models": {"tuned": 3}}],
    "samples.json": [{"answers": {}}, {"answers": ["x"]}, {"answers": [{"prompt": 3}]}, {"answers": [{"prompt": "x", "tuned": "y"}]}],
    "benchmarks/x/result.json": [{"task": 3}, {"task": "x", "models": []}, {"task": "x", "change": 1}],
    "hub.json": [{"repositories": []}, {"repositories": {"a": {"main": {"files": []}}}}, {"repositories": {"a": {"main": {"new": 1}}}}, {"base": 3}],
}  # fmt: skip
MAY_BE_EMPTY = {"data_report.json", "evaluation.json", "samples.json", "hub.json"}  # {} is as good as an absent file
READERS: dict[str, Callable[[RunDir], Any]] = {
    "run.json": RunDir.read_run,
    "plan.json": RunDir.read_plan,
    "data_report.json": RunDir.read_data_report,
    "evaluation.json": RunDir.read_evaluation,
    "samples.json": RunDir.read_samples,
    "benchmarks/x/result.json": RunDir.read_benchmarks,
    "hub.json": RunDir.read_pushes,
}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    rundir = make_card_run(tmp_path / "run")
    (rundir.benchmarks / "x").mkdir(parents=True)
    return rundir


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_record_is_named_with_the_remedy(run: RunDir, name: str, damage: str) -> None:
    (run.root / name).write_bytes(DAMAGES[damage])
    if damage == "object" and name in MAY_BE_EMPTY:
        assert READERS[name](run) == {}
        return
    with pytest.raises(UsageError, match=f"run/{name}( is damaged|: cannot be read|: not a JSON object)") as error:
        READERS[name](run)
    assert error.value.remedy
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "document"), [(name, each) for name, found in WRONG_TYPES.items() for each in found])
def test_a_value_of_another_type_is_named(run: RunDir, name: str, document: Any) -> None:
    (run.root / name).write_text(json.dumps(document))
    with pytest.raises(UsageError, match=f"{name} is damaged: [a-z_.0-9]*") as error:
        READERS[name](run)
    assert next(reversed(document)) in str(error.value)  # the key


@pytest.mark.parametrize("damage", ["not a leaf", "no lora", "wrong name", "wrong value", "no reason"])
def test_a_plan_that_is_no_plan_is_named(run: RunDir, damage: str) -> None:
    plan = json.loads(run.plan.read_text())
    changes: dict[str, Callable[[], object]] = {
        "not a leaf": lambda: plan.update(training=3),
        "no lora": lambda: plan.pop("lora"),
        "wrong name": lambda: plan.update(modle=plan.pop("model")),
        "wrong value": lambda: plan["device"].update(value=[3]),
        "no reason": lambda: plan["device"].update(origin="nowhere"),
    }
    changes[damage]()
    run.plan.write_text(json.dumps(plan))
    with pytest.raises(UsageError, match=r"plan\.json is damaged: ") as error:
        run.read_plan()
    assert "--resume auto" in str(error.value.remedy)


RUN = {
    "name": "run", "status": "failed", "pid": 7, "host": "node7", "error": "größer",
    "attempts": [{"number": 1, "reason": "killed", "from_step": 0}, {"number": 2, "reason": "failed", "from_step": 4}],
    "versions": {"torch": "2", "trl": None}, "fingerprints": {"data": {"train": {"pairs": 3, "digest": "d"}}, "tokenizer": "ab", "weights": {"x": "y"}},
    "changed_inputs": [], "steps": None,
}  # fmt: skip


def repaired(run: RunDir) -> dict[str, Any]:
    """run.json after its repair, which says what it does."""
    warnings: list[str] = []
    repair_records(run, warnings.append)
    assert [each for each in warnings if "run.json" in each and "written again" in each]
    return run.read_run()


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        ({"status": 3}, {"status": "running"}),
        ({"status": "no status", "error": 3}, {"status": "running", "error": None}),
        ({"steps": "ten", "attempts": {}}, {"steps": None, "attempts": None}),
        ({"attempts": [*RUN["attempts"], {"number": "x"}, 7]}, {"attempts": RUN["attempts"]}),
        ({"attempts": [{"from_step": 3}, *RUN["attempts"]]}, {"attempts": RUN["attempts"]}),
        ({"versions": {"torch": "2", "trl": 3}}, {"versions": {"torch": "2"}}),
        ({"fingerprints": {**RUN["fingerprints"], "data": {"train": 3}}}, {"fingerprints": {**RUN["fingerprints"], "data": {}}}),
        ({"fingerprints": {**RUN["fingerprints"], "data": {"train": {"pairs": 3}}}}, {"fingerprints": {**RUN["fingerprints"], "data": {}}}),
        ({"changed_inputs": 3}, {"changed_inputs": None}),
    ],
)  # fmt: skip
def test_a_repaired_run_keeps_every_field_that_is_valid(run: RunDir, damage: Any, left: Any) -> None:
    write_record(run.run, {**RUN, **damage})
    found = repaired(run)
    expected = {**RUN, **left}
    assert {name: found.get(name) for name in expected} == expected


def test_a_repaired_run_keeps_the_fields_before_and_after_a_damage(run: RunDir) -> None:
    """Cut at a byte, and with a byte changed: one field is lost, or two where the separator is damaged."""
    write_record(run.run, RUN)
    content = run.run.read_bytes()
    for position in range(0, len(content), 7):
        for damaged in (content[:position], content[:position] + b"\xff" + content[position + 1 :]):
            run.run.write_bytes(damaged)
            try:
                run.read_run()
            except UsageError:
                found = repaired(run)
                if len(damaged) == len(content):
                    lost = [name for name in RUN if name not in found or found[name] != RUN[name]]
                    assert len(set(lost) - {"name", "status"}) <= 2, (position, found)
                else:
                    complete = [name for name in RUN if content.index(f'"{name}":'.encode()) < position][:-1]
                    assert all(found[name] == RUN[name] for name in complete), (position, found)


def test_a_second_damage_keeps_the_file_of_the_first(run: RunDir) -> None:
    for content in ("first", "second"):
        run.samples.write_text(content)
        repair_records(run, lambda _: None)
    assert [(run.root / f"samples.json.{name}").read_text() for name in ("damaged", "damaged-2")] == ["first", "second"]


def test_the_records_that_orpo_writes_are_read(run: RunDir) -> None:
    assert run.read_data_report() == REPORT
    assert run.read_run()["status"] == "finished"


def test_lines_of_metrics_that_are_not_metrics_are_skipped(run: RunDir) -> None:
    lines = [
        b"\x80\xff",
        b"[1]",
        b'"x"',
        b"3",
        b'{"loss": 1.0}',
        b'{"step": "x"}',
        b'{"step": true}',
        b'{"step": NaN}',
        b"",
        b"[" * 9_999,
    ]
    good = [{"step": step, "loss": 2.0, "rewards/accuracies": 0.5} for step in range(1, 5)]
    wrong_value = b'{"step": 5, "loss": "low", "rewards/accuracies": null}'
    run.metrics.write_bytes(
        b"\n".join([*lines, *(json.dumps(each).encode() for each in good), *lines, wrong_value, b'{"st'])
    )
    assert run.read_metrics() == [*good, {"step": 5}]
    assert run.last_logged_step() == 5
    assert "| `loss` | 2 | 2 |" in render_card(run, parts="adapter")


@pytest.mark.parametrize("name", ["recipe.yaml", "recipe.original.yaml", "composed.yaml"])
def test_a_binary_recipe_does_not_stop_the_card(run: RunDir, name: str) -> None:
    for each in {"recipe.yaml", name}:
        (run.root / each).write_bytes(b"\x80\xff\x00")
    assert render_card(run, parts="adapter")
