"""Control characters of data, names and answers never reach a terminal; a result to a pipe stays exact."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table
from rich.text import Text
from support.json_lines import write_json_lines
from support.tiny import pairs, write_recipe

from orpo_cli.control_characters import escape_controls, one_line
from orpo_cli.errors import Problem
from orpo_cli.report.console import Console

HOSTILE = {
    "colour": "\x1b[31mred",
    "title": "\x1b]0;owned\x07",
    "link": "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "return": "safe\rerror",
    "backspace": "rm\b\bls",
    "c1": "\x9b31m\x9d0;x\x9c",
    "bidi": "\u202egnp.exe\u2066x",
    "delete": "\x7f\x00",
    "separator": "a\u2028b\u2029c\x85d",
}
EVIL = "".join(HOSTILE.values())
NAME = EVIL.replace("\x00", "")  # neither YAML nor a path can contain it
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def assert_clean(text: str) -> None:
    assert CONTROLS.findall(text) == []


@pytest.mark.parametrize("kind", HOSTILE)
def test_escapes_are_readable_and_keep_the_rest(kind: str) -> None:
    text = HOSTILE[kind]
    assert_clean(escape_controls(text))
    assert [each for each in text if each.isalnum()] == [
        each for each in re.sub(r"\\x..|\\u....|\\r", "", escape_controls(text)) if each.isalnum()
    ]
    assert escape_controls("naïve\t日本語 🎉\nnext") == "naïve\t日本語 🎉\nnext"
    assert one_line("a\nb\x1b\r") == "a\\nb\\x1b\\r"


@pytest.mark.parametrize("kind", HOSTILE)
def test_messages_and_views_are_clean(capfd: pytest.CaptureFixture[str], kind: str) -> None:
    text = f"{HOSTILE[kind]}\nerror: forged"
    console = Console()
    for write in (console.note, console.warn):
        write(text)
        written = capfd.readouterr().err
        assert_clean(written)
        assert written.count("\n") == 1
    console.problem(Problem("c", text, text, text, 1, 1, text))
    problem, hint = capfd.readouterr().err.splitlines()
    assert_clean(problem)
    assert hint.startswith("  → ")
    table = Table(text)
    table.add_row(Text(text))
    console.result(table)
    console.result(Text(text))
    written = capfd.readouterr().out
    assert "\x1b" not in written
    assert "\x9b" not in written
    assert "\u202e" not in written


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_result_in_a_pipe_is_exact_and_json_has_escapes(capfd: pytest.CaptureFixture[str], kind: str) -> None:
    text = HOSTILE[kind]
    Console().result(text)
    assert os.fsencode(capfd.readouterr().out) == f"{text}\n".encode()
    Console(as_json=True).document({"answer": text})
    written = capfd.readouterr().out
    assert_clean(written)
    assert json.loads(written) == {"answer": text}


def test_an_error_is_one_line(orpo_here: Callable[..., Any], tmp_path: Path) -> None:
    done = orpo_here("train", f"{EVIL}\nerror: forged.yaml")
    assert done.returncode == 2
    assert_clean(done.stderr)
    assert [line[:7] for line in done.stderr.splitlines()] == ["error: "]


def write_hostile_recipe(folder: Path) -> Path:
    """A recipe with control characters in names, column names, file names and the texts of the pairs."""
    name = "run" + NAME.replace("/", "")
    data = folder / f"data{name}"
    recipe = write_recipe(folder, steps=1)
    rows = [
        {
            "prompt": [{"role": "user", "content": f"{index} {EVIL}"}],
            "good": each["chosen"],
            "bad": each["rejected"],
            EVIL: 1,
        }
        for index, each in enumerate(pairs(8))
    ]
    rows[3]["good"] = rows[3]["bad"]  # a dropped row is named
    data.mkdir()
    write_json_lines(data / "a\nb.jsonl", rows)
    values = {
        "name": f"{NAME}\nforged",
        "output_dir": str(folder / name),
        "model": {"model_name_or_path": "model"},
        "dataset": {"train": {"path": str(data / "a\nb.jsonl"), "columns": {"chosen": "good", "rejected": "bad"}}, "max_prompt_length": 150},
        "training": {
            "max_steps": 1, "per_device_train_batch_size": 2, "max_length": 192, "save_strategy": "no", "warmup_steps": 0,
        },
        "lora": {"r": 4},
    }  # fmt: skip
    recipe.write_text(json.dumps(values))
    return recipe


def test_no_command_prints_control_characters_of_data_and_names(
    tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = write_hostile_recipe(tmp_path)
    page = tmp_path / "page.html"
    commands: list[tuple[int, tuple[object, ...]]] = [
        (2, ("validate", recipe, "--set", f"training.{EVIL}=1", "--set", f"lora.r={EVIL}")),
        (0, ("plan", recipe)),
        (0, ("plan", recipe, "--all")),
        (0, ("plan", recipe, "--show-origin")),
        (0, ("plan", recipe, "--json")),
        (0, ("data", recipe, "--show", "4", "--html", page)),
        (0, ("data", recipe, "--show", "4", "--json")),
        (2, ("data", recipe, "--row", EVIL)),
        (4, ("data", recipe, "--set", f"dataset.train.columns={json.dumps({'chosen': NAME})}")),
        (0, ("train", recipe)),
    ]
    for code, command in commands:
        done = orpo_here(*command)
        assert done.returncode == code, done.stderr
        result = done.stdout if command[0] != "train" else ""  # the path of the result is exact
        assert_clean(result + re.sub(r".*Loading weights.*\r", "", done.stderr))  # the bar of transformers
        assert not any(line.startswith("forged") for line in (done.stdout + done.stderr).splitlines())
    assert_clean(page.read_text())
    (run,) = (path for path in tmp_path.iterdir() if path.name.startswith("run"))
    for name in ("README.md", "run.json", "data_report.json", "plan.json"):
        assert_clean((run / name).read_text())


def test_a_terminal_shows_escapes_in_place_of_control_characters(tmp_path: Path) -> None:
    """On a real terminal: results, notes, warnings, tables and the answers of a chat."""
    code = f"""
import sys
from types import SimpleNamespace
from rich.table import Table
from orpo_cli.cli.generate import print_answers
from orpo_cli.report.console import Console
from orpo_cli.workflows.chat import _print_answers
evil = {EVIL!r}
class Conversation:
    def ask(self, variant, message, on_text):
        for character in evil:
            on_text(character)
        return SimpleNamespace(finished=True)
console = Console()
assert sys.stdout.isatty()
console.note(evil)
console.warn(evil)
console.result(evil)
answer = {{"text": evil, "finished": True}}
for count in (1, 2):
    print_answers({{"models": ["base", "tuned"][:count], "answers": [{{"prompt": evil, "base": answer, "tuned": answer}}] * count}}, console)
_print_answers(Conversation(), "x", ("model",), console, True)
"""
    master, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "dumb", "NO_COLOR": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        stdin=terminal,
        stdout=terminal,
        stderr=subprocess.STDOUT,
    )
    os.close(terminal)
    output = b""
    while True:
        try:
            output += (read := os.read(master, 65536))
        except OSError:
            break
        if not read:
            break
    assert process.wait() == 0, output
    text = output.decode().replace("\r\n", "\n")  # the terminal adds the carriage returns
    assert_clean(text)
    assert text.count("\\x1b]52;c;ZXZpbA==\\x07") >= 5
