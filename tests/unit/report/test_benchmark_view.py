"""Benchmark results as texts: figures with intervals and tests, settings, and damaged files."""

from __future__ import annotations

from typing import Any

import pytest

from orpo_cli.report.benchmark_view import benchmark_settings, benchmark_table, benchmark_title, outdated_note

RESULT: dict[str, Any] = {
    "task": "ifeval",
    "date": "2026-11-28T14:00:00Z",
    "questions": {"source": "datasets/google/IFEval/x.jsonl", "revision": "abc", "sha256": "0" * 64, "asked": 60, "available": 541},
    "prompts": {"chat_template": "0123", "plain": False, "system": None, "leading_bos_tokens": {"min": 1, "max": 1}},
    "decoding": {"max_new_tokens": 256, "temperature": 0.0},
    "versions": {"torch": "2.13.0", "lm_eval": None},
    "models": {
        variant: {"acc": value, "intervals": {"acc": [0.1, 0.3]}, "counts": {"acc": 60}, "answers": {"answers": 60, "truncated": 2, "tokens_mean": 99.25}}
        for variant, value in (("base", 0.15), ("tuned", 0.2))
    },
    "change": {"acc": 0.05, "won": {"acc": 5}, "lost": {"acc": 2}, "p_values": {"acc": 0.453125}, "intervals": {}},
}  # fmt: skip


def test_a_metric_is_shown_with_its_interval_the_change_and_the_test() -> None:
    assert benchmark_title(RESULT) == "IFEval"
    titles, rows = benchmark_table(RESULT)
    assert titles == ["", "base", "tuned", "change", "won", "lost", "p"]
    assert rows == [
        ["acc", "0.1500 [0.100, 0.300]", "0.2000 [0.100, 0.300]", "+0.0500", "5", "2", "0.453"],
        ["answers", "60", "60", "", "", "", ""],
        ["truncated at the maximum", "2", "2", "", "", "", ""],
        ["tokens of an answer", "99.2", "99.2", "", "", "", ""],
    ]


def test_settings_say_what_decided_the_figures() -> None:
    assert dict(benchmark_settings(RESULT)) == {
        "questions": "60 of 541, datasets/google/IFEval/x.jsonl at commit abc",
        "chat template": "digest 0123",
        "BOS tokens at the start": "1",
        "decoding": "greedy, at most 256 new tokens",
        "versions": "torch 2.13.0",
        "date": "2026-11-28T14:00:00Z",
    }


def test_a_local_file_is_named_without_its_folder() -> None:
    questions = {"source": "/home/me/data/x.jsonl", "sha256": "f" * 64, "asked": 1, "available": 1}
    assert (
        dict(benchmark_settings({**RESULT, "questions": questions}))["questions"]
        == f"1 of 1, x.jsonl, sha256 {'f' * 16}"
    )


@pytest.mark.parametrize(
    "damaged",
    [{}, {"task": 3, "models": {"base": 7}}, {"models": {"base": {"acc": 1, "intervals": [3]}}, "change": {"won": 3}}],
)
def test_damaged_results_are_shown_as_far_as_possible(damaged: dict[str, Any]) -> None:
    titles, rows = benchmark_table(damaged)
    assert all(len(row) == len(titles) for row in rows)
    assert isinstance(benchmark_settings(damaged), list)


def test_a_result_without_a_step_is_older_than_a_training_that_ended_later() -> None:
    result = {**RESULT, "date": "2026-11-28T10:00:00Z", "model": {}}
    assert outdated_note(result, {"steps": 4, "finished_at": "2026-11-28T09:00:00Z"}) == ""
    found = outdated_note(result, {"steps": 4, "finished_at": "2026-11-28T11:00:00Z"})
    assert found.startswith("measured on 2026-11-28T10:00:00Z; the run was trained until 2026-11-28T11:00:00Z")
    assert outdated_note({"model": "damaged", "date": 3}, {"finished_at": None}) == ""
