"""`orpo benchmark` from its arguments to its files, and in the report and the card."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from safetensors.torch import load_file, save_file
from support.json_lines import write_json_lines
from support.tiny import save_tiny_model
from support.tiny_eval_run import make_eval_run
from typer.testing import CliRunner, Result

from orpo_cli.card.model_card import render_card
from orpo_cli.cli.benchmark import command
from orpo_cli.errors import UsageError
from orpo_cli.report.page.sections import sections
from orpo_cli.report.run_history import read_history
from orpo_cli.rundir import BENCHMARK_RESULT, RunDir

app = typer.Typer()
app.command()(command)
ALPACA = [{"dataset": "koala", "instruction": "Why?"}, {"dataset": "vicuna", "instruction": "When, and how?"}]
MT_BENCH = [
    {"question_id": number, "category": category, "turns": ["Write.", "Again."]}
    for number, category in ((81, "writing"), (111, "math"), (112, "math"))
]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return make_eval_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def measured(run: RunDir, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The documents of two tasks of a run, by task."""
    folder, documents = tmp_path_factory.mktemp("questions"), {}
    for task, rows in (("alpaca_eval", ALPACA), ("mt_bench", MT_BENCH)):
        data = write_json_lines(folder / f"{task}.jsonl", rows)
        done = invoke(run.root, "--task", task, "--data", data, "--max-new-tokens", 8, "--json")
        assert done.exit_code == 0, done.exception
        documents[task] = json.loads(done.stdout)
    return documents


def test_answers_of_base_and_tuned_are_written_for_alpaca_eval(run: RunDir, measured: dict[str, Any]) -> None:
    document = measured["alpaca_eval"]
    for variant, generator in (("base", "run-base"), ("tuned", "run")):
        rows = json.loads((run.benchmarks / "alpaca_eval" / document["files"][variant]).read_text())
        assert [(row["dataset"], row["instruction"], row["generator"]) for row in rows] == [
            (asked["dataset"], asked["instruction"], generator) for asked in ALPACA
        ]
        assert all(isinstance(row["output"], str) for row in rows)
        assert document["models"][variant]["answers"]["answers"] == 2


def test_the_result_file_says_what_decided_the_answers(run: RunDir, measured: dict[str, Any]) -> None:
    document = json.loads((run.benchmarks / "alpaca_eval" / BENCHMARK_RESULT).read_text())
    assert document == measured["alpaca_eval"]
    assert (document["task"], document["questions"]["asked"], document["questions"]["available"]) == (
        "alpaca_eval",
        2,
        2,
    )
    assert document["decoding"] == {
        "max_new_tokens": 8, "temperature": 0.0, "top_p": None, "seed": None, "repetition_penalty": 1.0,
        "stop_tokens": ["<|endoftext|>", "<|im_end|>"],
    }  # fmt: skip
    prompts = document["prompts"]
    assert prompts["first"] == "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert prompts["leading_bos_tokens"] == {"min": 0, "max": 0}
    assert len(prompts["chat_template"]) == len(prompts["tokenizer"]) == 16
    assert document["model"]["adapter_sha256"]
    assert document["versions"]["torch"]
    assert document["date"].endswith("Z")


def test_mt_bench_has_two_turns_with_the_temperature_of_the_category(run: RunDir, measured: dict[str, Any]) -> None:
    document = measured["mt_bench"]
    assert document["decoding"]["temperature"] == {"writing": 0.7, "math": 0.0}
    assert document["decoding"]["seed"] == 0
    folder = run.benchmarks / "mt_bench"
    lines = [json.loads(line) for line in (folder / "model_answer" / "run.jsonl").read_text().splitlines()]
    assert [(line["question_id"], line["model_id"]) for line in lines] == [(81, "run"), (111, "run"), (112, "run")]
    assert all(len(line["choices"][0]["turns"]) == 2 for line in lines)
    assert (folder / "model_answer" / "run-base.jsonl").is_file()
    second = folder / "answers" / "tuned-turn-2-temperature-0.jsonl"
    messages = [json.loads(line)["messages"] for line in second.read_text().splitlines()]
    roles = ["user", "assistant", "user"]
    assert [[message["role"] for message in each] for each in messages] == [roles, roles]
    assert messages[0][1]["content"] == lines[1]["choices"][0]["turns"][0]


def test_a_repetition_uses_the_answers_that_it_has(run: RunDir, measured: dict[str, Any], tmp_path: Path) -> None:
    before = (run.benchmarks / "alpaca_eval" / "tuned.json").read_bytes()
    data = write_json_lines(tmp_path / "alpaca.jsonl", ALPACA)
    done = invoke(run.root, "--task", "alpaca_eval", "--data", data, "--max-new-tokens", 8)
    assert done.exit_code == 0
    assert " ".join(done.stderr.split()).count("is complete, with the same settings: nothing is generated again") == 2
    assert (run.benchmarks / "alpaca_eval" / "tuned.json").read_bytes() == before
    other = invoke(run.root, "--task", "alpaca_eval", "--data", data, "--max-new-tokens", 9)
    assert isinstance(other.exception, UsageError)


def test_the_report_and_the_card_show_the_benchmarks(run: RunDir, measured: dict[str, Any]) -> None:
    shown = sections([read_history(run.root)])["benchmarks"]
    assert [each["title"] for each in shown] == ["run: AlpacaEval", "run: MT-Bench"]
    assert dict(shown[0]["settings"])["decoding"] == "greedy, at most 8 new tokens"
    assert shown[0]["rows"][0] == ["answers", "2", "2"]
    card = render_card(run, parts="adapter")
    assert "### AlpacaEval\n\n|  | base | tuned |" in card
    assert "- decoding: temperature by category, at most 8 new tokens, top-p 1.0, seed 0" in card
    assert str(run.root.parent) not in card.partition("## Benchmarks")[2].partition("\n## ")[0]


def test_figures_from_before_further_training_are_marked(run: RunDir, measured: dict[str, Any]) -> None:
    before = run.run.read_text()
    assert "older model" not in dict(sections([read_history(run.root)])["benchmarks"][0]["settings"])
    assert "older model" not in render_card(run, parts="adapter")
    run.run.write_text(json.dumps({**json.loads(before), "steps": 5}))
    try:
        note = (
            "measured after step 2; the run has 5 steps now: the figures of the tuned model are not those of the result"
        )
        assert dict(sections([read_history(run.root)])["benchmarks"][0]["settings"])["older model"] == note
        assert f"- older model: {note}" in render_card(run, parts="adapter")
    finally:
        run.run.write_text(before)


def train_further(run: RunDir) -> None:
    """Other weights in the result, as after further training."""
    weights = next(run.result().glob("*model.safetensors"))
    save_file({name: tensor + 0.5 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})


def moved_answers(run: RunDir) -> set[str]:
    return {path.name for path in run.benchmarks.rglob("*.other-weights/*")}


@pytest.mark.parametrize("full", [False, True])
def test_after_further_training_only_the_tuned_model_answers_again(full: bool, tmp_path: Path) -> None:
    run = make_eval_run(tmp_path / "run", full=full)
    data = write_json_lines(tmp_path / "mt_bench.jsonl", MT_BENCH)
    arguments = (run.root, "--task", "mt_bench", "--data", data, "--max-new-tokens", 8, "--json")
    before = json.loads(invoke(*arguments).stdout)
    base_files = {path: path.stat().st_mtime_ns for path in run.benchmarks.rglob("answers/base-*.jsonl")}
    assert len(base_files) == 4
    train_further(run)
    done = invoke(*arguments)
    assert done.exit_code == 0, done.exception
    notes = " ".join(done.stderr.split())
    assert notes.count("answers of other weights") == 4
    assert notes.count("nothing is generated again") == 4
    names = {f"tuned-turn-{turn}-temperature-{at}" for turn in (1, 2) for at in ("0", "0.7")}
    assert moved_answers(run) == {f"{name}{end}" for name in names for end in (".jsonl", ".settings.json")}
    assert {path: path.stat().st_mtime_ns for path in base_files} == base_files
    after = json.loads(done.stdout)
    assert after["models"]["base"] == before["models"]["base"]
    assert after["models"]["tuned"]["answers"] != before["models"]["tuned"]["answers"]
    assert isinstance(invoke(*arguments[:-2], 9).exception, UsageError)


def test_another_base_answers_again(tmp_path: Path) -> None:
    run = make_eval_run(tmp_path / "run")
    data = write_json_lines(tmp_path / "alpaca.jsonl", ALPACA)
    arguments = (run.root, "--task", "alpaca_eval", "--data", data, "--max-new-tokens", 8)
    assert invoke(*arguments).exit_code == 0
    weights = tmp_path / "run" / "base" / "model.safetensors"
    tensors = load_file(weights)
    name, tensor = next((name, each) for name, each in tensors.items() if each.numel() > 1024)
    tensor.view(-1)[7] += 1  # one value of a large tensor
    save_file({**tensors, name: tensor}, weights, {"format": "pt"})
    assert invoke(*arguments).exit_code == 0
    assert "base-turn-1-temperature-0.jsonl" in moved_answers(run)


def test_the_base_answers_again_beside_a_tuned_model_in_another_environment(tmp_path: Path) -> None:
    run = make_eval_run(tmp_path / "run")
    data = write_json_lines(tmp_path / "alpaca.jsonl", ALPACA)
    arguments = (run.root, "--task", "alpaca_eval", "--data", data, "--max-new-tokens", 8)
    assert invoke(*arguments).exit_code == 0
    (settings,) = run.benchmarks.rglob("answers/base-*.settings.json")
    document = json.loads(settings.read_text())
    document["environment"]["torch"] = "2.0.0"
    settings.write_text(json.dumps(document))
    assert invoke(*arguments).exit_code == 0
    assert moved_answers(run) == set()  # neither model answers again
    train_further(run)
    assert invoke(*arguments).exit_code == 0
    assert {name for name in moved_answers(run) if name.endswith("0.jsonl")} == {
        f"{variant}-turn-1-temperature-0.jsonl" for variant in ("base", "tuned")
    }


def test_the_terminal_shows_figures_and_the_command_of_the_judge(run: RunDir, tmp_path: Path) -> None:
    data = write_json_lines(tmp_path / "alpaca.jsonl", ALPACA)
    done = invoke(run.root, "--task", "alpaca_eval", "--data", data, "--max-new-tokens", 8)
    assert "AlpacaEval" in done.stdout
    assert "questions: 2 of 2, alpaca.jsonl" in done.stdout
    assert f"judge: alpaca_eval --model_outputs {run.benchmarks}/alpaca_eval/tuned.json" in " ".join(
        done.stdout.split()
    )


def test_a_model_needs_a_folder_for_its_results(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    data = write_json_lines(tmp_path / "alpaca.jsonl", ALPACA)
    arguments = (model, "--task", "alpaca_eval", "--data", data, "--max-new-tokens", 4)
    error = invoke(*arguments).exception
    assert isinstance(error, UsageError)
    assert "--output DIR" in str(error.remedy)
    assert "is a file" in str(invoke(*arguments, "--output", data).exception)
    done = invoke(*arguments, "--output", tmp_path / "results", "--max-samples", 1, "--json")
    assert done.exit_code == 0, done.exception
    document = json.loads(done.stdout)
    assert (list(document["models"]), document["change"], document["questions"]["asked"]) == (["model"], None, 1)
    (row,) = json.loads((tmp_path / "results" / "alpaca_eval" / "model.json").read_text())
    assert row["generator"] == "model"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "mmlu"], "no such task"),
        (["--task", "lm_eval:"], "no such task"),
        (["--task", "mt_bench", "--temperature", "0.5"], "--temperature does nothing with --task mt_bench"),
        (["--task", "mt_bench", "--plain"], "the second turn of mt_bench needs a chat template"),
        (["--task", "ifeval", "--seed", "1"], "--seed does nothing with --task ifeval: answers are greedy"),
        (["--task", "ifeval", "--include-path", "x"], "--include-path does nothing"),
        (["--task", "lm_eval:arc_easy", "--data", "x"], "--data does nothing with --task lm_eval:arc_easy"),
        (["--task", "alpaca_eval", "--plain", "--system", "x"], "--plain switches off"),
        (["--task", "alpaca_eval", "--temperature", "1", "--top-p", "0"], "--top-p must be above 0"),
    ],
)
def test_options_without_effect_are_errors_before_anything_is_loaded(arguments: list[str], message: str) -> None:
    error = invoke("no-such-run", *arguments).exception
    assert isinstance(error, UsageError), error
    assert message in error.message


def test_the_command_is_known_and_completes_tasks(orpo_here: Callable[..., Any]) -> None:
    done = orpo_here("benchmark", "nothing-here", "--task", "mmlu")
    assert done.returncode == 2
    assert "lm_eval:NAME" in done.stderr
