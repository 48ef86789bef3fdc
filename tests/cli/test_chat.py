"""`orpo chat` in a pipe and on a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from conftest import Orpo
from support.tiny_eval_run import make_eval_run, open_target_quietly
from typer.testing import CliRunner, Result

from orpo_cli.cli.chat import command
from orpo_cli.errors import UsageError
from orpo_cli.evaluation.chat import Conversation
from orpo_cli.evaluation.generation import SamplingParams
from orpo_cli.rundir import RunDir

app = typer.Typer()
app.command()(command)
SHORT = ("--max-new-tokens", "6")
CUT = " […]"


def invoke_chat(*arguments: object, stdin: str) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in (*arguments, *SHORT)], input=stdin)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run whose models generate ASCII letters, so that lines can be compared."""
    run = make_eval_run(tmp_path_factory.mktemp("run"))
    from transformers import LlamaForCausalLM

    base = run.root.parent / "base"
    model = LlamaForCausalLM.from_pretrained(base)
    tokenizer = open_target_quietly(base).tokenizer
    letters = [
        index
        for token, index in tokenizer.get_vocab().items()
        if len(token) == 1 and token.isascii() and token.isalpha()
    ]
    kept = model.lm_head.weight.data[letters].clone()
    model.lm_head.weight.data.zero_()
    model.lm_head.weight.data[letters] = kept
    model.save_pretrained(base)
    return run


def expected_answers(run: RunDir, variant: str, *messages: str, system: str | None = None) -> list[str]:
    conversation = Conversation(open_target_quietly(run.root), SamplingParams(max_new_tokens=6), system=system)
    answers = [conversation.ask(variant, message, lambda _: None) for message in messages]  # type: ignore[arg-type]
    return [answer.text + ("" if answer.finished else CUT) for answer in answers]


def test_a_pipe_gets_only_the_answers(run: RunDir, orpo: Orpo) -> None:
    done = orpo("chat", run.root, *SHORT, input="Why?\n\n  And then?  \n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == expected_answers(run, "tuned", "Why?", "And then?")
    assert ">" not in done.stdout


def test_a_run_that_was_trained_on_plain_text_is_asked_with_a_warning(run: RunDir) -> None:
    source = {"part": "train", "location": "x.jsonl", "notes": {"text_by_format": 12}}
    run.data_report.write_text(json.dumps({"sources": [source]}))
    try:
        done = invoke_chat(run.root, stdin="Hi\n")
    finally:
        run.data_report.unlink()
    assert done.exit_code == 0
    assert "was trained on plain text, and chat asks through the chat template" in done.stderr
    assert "was trained on plain text" not in invoke_chat(run.root, stdin="Hi\n").stderr


def test_base_and_tuned_answer_in_turn(run: RunDir) -> None:
    shown = invoke_chat(run.root, "--compare", stdin="Why?\nAnd?\n").stdout.splitlines()
    base, tuned = expected_answers(run, "base", "Why?", "And?"), expected_answers(run, "tuned", "Why?", "And?")
    assert shown == [f"base: {base[0]}", f"tuned: {tuned[0]}", f"base: {base[1]}", f"tuned: {tuned[1]}"]
    assert base != tuned


def test_reset_starts_a_new_conversation_and_exit_ends_the_chat(run: RunDir) -> None:
    shown = invoke_chat(run.root, stdin="Why?\n/reset\nWhy?\n/exit\nWhen?\n").stdout.splitlines()
    assert shown == expected_answers(run, "tuned", "Why?") * 2


def test_a_message_in_a_pipe_may_begin_with_a_slash(run: RunDir) -> None:
    assert invoke_chat(run.root, stdin="/etc?\n").stdout.splitlines() == expected_answers(run, "tuned", "/etc?")


def test_the_system_message_opens_the_conversation(run: RunDir) -> None:
    shown = invoke_chat(run.root, "--system", "Be brief.", stdin="Why?\n").stdout.splitlines()
    assert shown == expected_answers(run, "tuned", "Why?", system="Be brief.") != expected_answers(run, "tuned", "Why?")


def test_a_conversation_that_is_too_long_ends_a_pipe_with_an_error(run: RunDir) -> None:
    done = invoke_chat(run.root, stdin="x" * 300 + "\nWhy?\n")
    assert isinstance(done.exception, UsageError)
    assert done.stdout.strip() == ""


def test_a_single_model_has_no_base_to_compare_with(run: RunDir) -> None:
    error = invoke_chat(run.root.parent / "base", "--compare", stdin="Why?\n").exception
    assert isinstance(error, UsageError)
    assert "not a run" in error.message


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_on_a_terminal_there_is_a_prompt_and_help_and_errors_do_not_end_the_chat(run: RunDir, tmp_path: Path) -> None:
    terminal, child_terminal = os.openpty()
    command = [sys.executable, "-m", "orpo_cli", "chat", str(run.root), *SHORT]
    with subprocess.Popen(
        command,
        stdin=child_terminal,
        stdout=child_terminal,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "TERM": "dumb"},
    ) as process:
        try:
            os.close(child_terminal)
            screen = Screen(terminal)
            screen.wait_for("> ")
            for line in ("/help", "/nonsense", "x" * 300, "Why?"):
                os.write(terminal, f"{line}\n".encode())
            answer = expected_answers(run, "tuned", "Why?")[0]
            screen.wait_for(answer)
            os.write(terminal, b"\x04")  # Ctrl-D
            assert process.wait(30) == 0
            assert process.stderr is not None
            stderr = process.stderr.read().decode()
        finally:
            process.kill()
            os.close(terminal)
    assert "no such command: /nonsense" in stderr
    assert stderr.count("/reset starts a new conversation") >= 3, "at the start, for /help, and for the mistake"
    assert "the conversation has" in stderr, "a message that is too long does not end the chat"
    assert "Traceback" not in stderr


class Screen:
    """What a program has written to a pseudo-terminal."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.text = ""

    def wait_for(self, text: str, seconds: float = 90) -> None:
        os.set_blocking(self.descriptor, False)
        end = time.monotonic() + seconds
        while text not in self.text:
            assert time.monotonic() < end, f"{text!r} did not appear: {self.text!r}"
            try:
                self.text += os.read(self.descriptor, 4096).decode(errors="replace")
            except BlockingIOError:
                time.sleep(0.05)
