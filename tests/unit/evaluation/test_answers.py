"""Answers at scale: an interrupted generation continues to the same bytes, and refuses other settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.completions import generate_completions
from support.tiny_eval_run import make_eval_run, open_target_quietly

from orpo_cli.errors import Interrupted, UsageError
from orpo_cli.evaluation.answer_file import check_is_answer_file, recorded_settings
from orpo_cli.evaluation.answers import AnswerOptions, Progress, answer_prompts
from orpo_cli.evaluation.eval_target import EvalTarget
from orpo_cli.evaluation.generation import SamplingParams
from orpo_cli.evaluation.prompts import Prompt, PromptBuilder

QUESTIONS = [f"What is {number}?" + " Please." * (number % 7) for number in range(15)]
END = frozenset({258})  # <|im_end|>
GREEDY = AnswerOptions(SamplingParams(6), ("base", "tuned"), END, batch_size=4)
SAMPLED = AnswerOptions(SamplingParams(6, temperature=1.2, top_p=0.9, seed=5), ("tuned",), END, batch_size=4)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> EvalTarget:
    return open_target_quietly(make_eval_run(tmp_path_factory.mktemp("run")).root)


@pytest.fixture(scope="module")
def prompts(target: EvalTarget) -> list[Prompt]:
    builder = PromptBuilder(target.tokenizer, plain=False)
    return [builder.from_text(question) for question in QUESTIONS]


def interrupt_after(batches: int) -> Callable[[str], Progress]:
    """Progress display that is interrupted, as by Ctrl-C, when so many batches have been answered."""
    left = batches

    def update(done: int, total: int, detail: str = "") -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    return lambda title: update


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy, base and tuned", "sampled"])
def test_two_interruptions_change_no_byte(
    options: AnswerOptions, target: EvalTarget, prompts: list[Prompt], tmp_path: Path
) -> None:
    straight, interrupted = tmp_path / "straight.jsonl", tmp_path / "interrupted.jsonl"
    answers = answer_prompts(target, prompts, options, output=straight)
    for batches in (2, 1):
        with pytest.raises(Interrupted, match="answers are in"):
            answer_prompts(target, prompts, options, output=interrupted, begin_count=interrupt_after(batches))
        assert not interrupted.exists()
    partial = tmp_path / "interrupted.jsonl.partial"
    assert len(partial.read_text().splitlines()) == 3
    notes: list[str] = []
    assert answer_prompts(target, prompts, options, output=interrupted, note=notes.append) == answers
    assert interrupted.read_bytes() == straight.read_bytes()
    assert "continuing" in notes[0]
    assert not partial.exists()
    assert answers == answer_prompts(target, prompts, options)  # without a file


def test_a_torn_line_is_answered_again(target: EvalTarget, prompts: list[Prompt], tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight.jsonl", tmp_path / "killed.jsonl"
    answer_prompts(target, prompts, SAMPLED, output=straight)
    with pytest.raises(Interrupted):
        answer_prompts(target, prompts, SAMPLED, output=killed, begin_count=interrupt_after(2))
    partial = tmp_path / "killed.jsonl.partial"
    lines = partial.read_bytes()
    for torn in (lines[:-20], lines + b'{"variant": "tuned"}\n'):
        partial.write_bytes(torn)
        answer_prompts(target, prompts, SAMPLED, output=killed)
        assert killed.read_bytes() == straight.read_bytes()
        killed.unlink()


def test_rows_are_in_the_order_of_the_prompts(target: EvalTarget, prompts: list[Prompt], tmp_path: Path) -> None:
    output = tmp_path / "new folder" / "answers.jsonl"
    named = [replace(prompt, id=f"q{number}") for number, prompt in enumerate(prompts)]
    answers = answer_prompts(target, named, GREEDY, output=output)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(row["id"], row["prompt"]) for row in rows] == [(f"q{at}", text) for at, text in enumerate(QUESTIONS)]
    assert [row["tuned"]["text"] for row in rows] == [each.text for each in answers["tuned"]]
    assert rows[0]["messages"] == [{"role": "user", "content": QUESTIONS[0]}]
    with target.use_variant("base") as model:
        alone = generate_completions(model, target.tokenizer, prompts, GREEDY.sampling, end_token_ids=END)
    assert alone == answers["base"]


def test_the_settings_beside_the_file_have_what_decides_the_answers(
    target: EvalTarget, prompts: list[Prompt], tmp_path: Path
) -> None:
    answer_prompts(target, prompts, SAMPLED, output=tmp_path / "answers.jsonl")
    document = json.loads((tmp_path / "answers.settings.json").read_text())
    decoding = document["settings"]["decoding"]
    assert {key: decoding[key] for key in ("max_new_tokens", "temperature", "top_p", "seed")} == {
        "max_new_tokens": 6, "temperature": 1.2, "top_p": 0.9, "seed": 5,
    }  # fmt: skip
    assert "<|im_end|>" in document["settings"]["stop_tokens"]
    assert document["settings"]["prompts"]["count"] == len(QUESTIONS)
    assert document["environment"]["transformers"]
    assert document["result"]["answers"] == len(QUESTIONS)
    assert document["result"]["tokens_per_second"] > 0
    assert recorded_settings(tmp_path / "answers.jsonl") == document["settings"]


def test_a_complete_file_of_the_same_settings_is_not_generated_again(
    target: EvalTarget, prompts: list[Prompt], tmp_path: Path
) -> None:
    output = tmp_path / "answers.jsonl"
    answers = answer_prompts(target, prompts, GREEDY, output=output)
    before = output.stat().st_mtime_ns
    again = answer_prompts(target, prompts, GREEDY, output=output, begin_count=interrupt_after(1))
    assert again == answers
    assert output.stat().st_mtime_ns == before
    output.write_text("".join(output.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UsageError, match="has 14 answers, not the 15"):
        answer_prompts(target, prompts, GREEDY, output=output)


def test_other_settings_are_refused_with_their_names(target: EvalTarget, prompts: list[Prompt], tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    with pytest.raises(Interrupted):
        answer_prompts(target, prompts, SAMPLED, output=output, begin_count=interrupt_after(1))
    others = {
        "decoding.seed: 5 → 6": replace(SAMPLED, sampling=replace(SAMPLED.sampling, seed=6)),
        "decoding.temperature": replace(SAMPLED, sampling=replace(SAMPLED.sampling, temperature=1.0)),
        "batches.count: 4 → 8": replace(SAMPLED, batch_size=2),
        "variants": replace(SAMPLED, variants=("base",)),
    }
    for message, options in others.items():
        with pytest.raises(UsageError, match=message) as caught:
            answer_prompts(target, prompts, options, output=output)
        assert "answers.jsonl.partial" in str(caught.value.remedy)
    with pytest.raises(UsageError, match=r"prompts\.count: 15 → 14"):
        answer_prompts(target, prompts[1:], SAMPLED, output=output)
    (tmp_path / "answers.jsonl.partial").unlink()
    answer_prompts(target, prompts[1:], SAMPLED, output=output)  # nothing was left that has the other settings


def test_other_weights_are_refused(target: EvalTarget, prompts: list[Prompt], tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    answer_prompts(target, prompts, SAMPLED, output=output)
    weight = next(weight for name, weight in target.model.named_parameters() if "lora_B" in name)
    before = weight.data.clone()
    try:
        weight.data += 1
        with pytest.raises(UsageError, match="weights"):
            answer_prompts(target, prompts, SAMPLED, output=output)
    finally:
        weight.data = before


def test_a_file_of_somebody_else_is_not_overwritten(target: EvalTarget, prompts: list[Prompt], tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text("mine\n")
    with pytest.raises(UsageError, match="may be another file"):
        answer_prompts(target, prompts, GREEDY, output=tmp_path / "answers.jsonl")
    assert (tmp_path / "answers.jsonl").read_text() == "mine\n"
    with pytest.raises(UsageError, match="is a folder"):
        check_is_answer_file(tmp_path)


def test_a_prompt_beyond_the_context_is_refused_before_the_first_answer(target: EvalTarget, tmp_path: Path) -> None:
    builder = PromptBuilder(target.tokenizer, plain=False)
    prompts = [builder.from_text("Why?"), builder.from_text("x" * 2000)]
    with pytest.raises(UsageError, match="prompt 2 has"):
        answer_prompts(target, prompts, GREEDY, output=tmp_path / "answers.jsonl")
    assert not list(tmp_path.iterdir())


def test_changed_ids_and_changed_answers_are_not_taken_for_complete(
    target: EvalTarget, prompts: list[Prompt], tmp_path: Path
) -> None:
    file = tmp_path / "answers.jsonl"
    answer_prompts(target, prompts[:2], SAMPLED, output=file)
    with pytest.raises(UsageError, match=r"prompts\.digest"):
        answer_prompts(target, [replace(each, id=7) for each in prompts[:2]], SAMPLED, output=file)
    file.write_text(file.read_text().replace('"tuned"', '"other"'))
    with pytest.raises(UsageError, match="has no answers of tuned"):
        answer_prompts(target, prompts[:2], SAMPLED, output=file)
