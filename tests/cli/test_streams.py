"""Closed and broken standard streams: no command ends or changes its exit code for them, except for a result that is lost."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.streams import STREAM_FAULTS, StreamFault, run_with_faults
from support.tiny import write_recipe

from orpo_cli.run_attempts import FINISHED
from orpo_cli.rundir import RunDir

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


@pytest.mark.parametrize(
    ("arguments", "fault", "code"),
    [
        (["--help"], "full", 3),
        (["--version"], "hung up", 3),
        (["train", "--help"], "full", 3),
        (["recipes"], "broken", 0),
        (["recipes", "--json"], "closed", 3),
        (["recipes", "--json"], "broken", 0),
        (["schema"], "full", 3),
        (["schema"], "closed", 3),
        (["schema", "-o", "/dev/null"], "closed", 0),
        (["explain", "bf16-and-fp16"], "closed", 3),
        (["generate", "no-such-model"], "closed", 3),  # before the model is looked for
        (["validate", "quickstart"], "closed", 0),
    ],
)
def test_a_result_that_is_lost_exits_3_and_one_that_nobody_reads_exits_0(
    arguments: list[str], fault: StreamFault, code: int
) -> None:
    done = run_with_faults(arguments, stdout=fault)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.stderr.count("the result cannot be written to standard output") == (code == 3)


@pytest.mark.parametrize("fault", STREAM_FAULTS)
def test_standard_error_changes_no_exit_code(tmp_path: Path, fault: StreamFault) -> None:
    (tmp_path / "bad.yaml").write_text("modle: {}\n")
    assert run_with_faults(["validate", tmp_path / "bad.yaml"], stderr=fault).returncode == 2
    done = run_with_faults(["recipes"], stderr=fault)
    assert done.returncode == 0
    assert "quickstart" in done.stdout


def test_closed_descriptors_are_not_those_of_data_files(tmp_path: Path) -> None:
    """A file that got number 2 would receive every message."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys\n"
        "from orpo_cli.cli.standard_streams import protect_standard_streams\n"
        "protect_standard_streams()\n"
        "numbers = [os.open(sys.argv[1], os.O_RDWR | os.O_CREAT) for _ in range(3)]\n"
        "print('out'); print('err', file=sys.stderr); sys.stdin.read()\n"
        "open(sys.argv[2], 'w').write(str(min(numbers) > 2))\n"
    )
    command = f"{sys.executable} {program} data report <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], cwd=tmp_path, timeout=60, check=False).returncode == 0
    assert (tmp_path / "report").read_text() == "True"
    assert (tmp_path / "data").read_text() == ""


def test_a_result_that_took_long_is_printed_to_standard_error_where_the_disk_is_full(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from orpo_cli.cli import main\n"
        "main.COMPUTING_COMMANDS = ('recipes',)\n"  # a fast one in their place
        "sys.argv = ['orpo', 'recipes', '--json']\n"
        "main.main()\n"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, program], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3
    message, _, document = done.stderr.split("\n", 2)
    assert "No space left" in message
    assert "recipes" in json.loads(document)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    """Of standard input, also where its encoding is strict, and of arguments."""
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    for arguments, message in (
        (["convert", "-"], b"unacceptable character"),
        (["eval", b"\xff", "--data", "x"], b"'\\udcff': a name or a text that is not UTF-8"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "orpo_cli", *arguments],
            input=b"base_model: \xff\n", capture_output=True, env=environment, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 2
        assert message in done.stderr
        assert b"Traceback" not in done.stderr


def test_a_pipe_that_another_program_made_non_blocking_gets_everything() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with subprocess.Popen(
        [sys.executable, "-m", "orpo_cli", "schema"], stdout=writer, stderr=subprocess.PIPE
    ) as running:
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            text = pipe.read()
        assert running.wait(60) == 0
    assert len(text) > 100_000
    assert text.endswith(b"}\n")


@pytest.mark.parametrize(
    ("stdin", "stdout", "stderr"),
    [("closed", "closed", "closed"), (None, "full", "broken")],
)
def test_a_run_trains_to_its_end_and_logs_every_line(
    tmp_path: Path, stdin: StreamFault | None, stdout: StreamFault, stderr: StreamFault
) -> None:
    recipe = write_recipe(tmp_path, steps=2, training={"logging_steps": 1})
    done = run_with_faults(["train", recipe], stdin=stdin, stdout=stdout, stderr=stderr, cwd=tmp_path)
    run = RunDir(tmp_path / "run")
    assert run.read_run()["status"] == FINISHED
    assert done.returncode == (3 if stdout == "full" else 0)
    log = (run.root / "logs" / "attempt-1.log").read_text()
    assert "training.beta = 0.25" in log  # of the plan, before the run directory exists
    assert "step 2/2" in log
    assert "trained 2 steps" in log
    assert ("cannot be written to standard output" in log) is (stdout == "full")


def test_a_terminal_that_closes_during_a_run_does_not_end_it(tmp_path: Path) -> None:
    """With the live display, whose threads write to the terminal; SIGHUP is ignored, as under nohup."""
    recipe = write_recipe(tmp_path, steps=6, training={"logging_steps": 1})
    terminal, stream = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    command = [
        "/bin/sh",
        "-c",
        """trap "" HUP; exec "$@" """,
        "sh",
        sys.executable,
        "-m",
        "orpo_cli",
        "train",
        str(recipe),
    ]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stream,
        env=environment,
        start_new_session=True,
    ) as running:
        os.close(stream)
        shown = b""
        while b"elapsed" not in shown:
            shown += os.read(terminal, 4096)
        os.close(terminal)
        assert running.stdout is not None
        assert running.stdout.read().decode().strip() == str(tmp_path / "run" / "adapter")
        assert running.wait(120) == 0
    log = (tmp_path / "run" / "logs" / "attempt-1.log").read_text()
    assert "step 6/6  loss " in log
    assert "\x1b" not in log


def test_a_quiet_run_logs_every_line_and_a_failed_one_its_traceback(
    tmp_path: Path, orpo_here: Callable[..., Any]
) -> None:
    recipe = write_recipe(tmp_path, steps=4, training={"logging_steps": 1, "learning_rate": 1e30})
    done = orpo_here("train", recipe, "--quiet")
    assert done.returncode == 5
    assert "step 1/4" not in done.stderr
    log = (tmp_path / "run" / "logs" / "attempt-1.log").read_text()
    assert "step 1/4" in log
    assert "error: step" in log
    assert "Traceback (most recent call last)" in log


@pytest.mark.parametrize("command", ["data", "chat"])
def test_what_a_library_prints_is_not_in_the_result(tmp_path: Path, command: str) -> None:
    """DeepSpeed logs to standard output while it is imported."""
    recipe = write_recipe(tmp_path)
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name == 'transformers':\n"
        "            print('of a library')\n"
        "sys.meta_path.insert(0, Finder)\n"
    )
    arguments = (
        ["data", recipe, "--json"] if command == "data" else ["chat", tmp_path / "model", "--max-new-tokens", "1"]
    )
    done = subprocess.run(
        [sys.executable, "-m", "orpo_cli", *map(str, arguments)],
        input="hello\n", capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "of a library" in done.stderr
    assert "of a library" not in done.stdout
    if command == "data":
        assert json.loads(done.stdout)["status"] == "ok"
