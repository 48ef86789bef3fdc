"""Signals while a command other than `orpo train` works: nothing is half-written, no process and no traceback is left."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from support.forked_command import ForkedCommand, StopPoint, interrupt_at
from support.signal_phases import assert_interrupted
from support.tiny import write_recipe
from support.tiny_eval_run import make_eval_run
from support.tiny_export import gguf_converter, make_exportable_run  # noqa: F401

from orpo_cli.exporting import export  # noqa: F401  loaded before the forks
from orpo_cli.merging import merge  # noqa: F401
from orpo_cli.rundir import RunDir

INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
COMMANDS = {
    "merge, writing in a thread": (["merge"], "orpo_cli.merging.tensor_files:SafetensorsWriter.write", TERM),
    "merge, verification": (["merge"], "orpo_cli.merging.merge:verify_merge", INT),
    "export": (["export", "--format", "safetensors"], "orpo_cli.exporting.write_format:check_folder", HUP),
    "eval": (["eval"], "orpo_cli.evaluation.preference_scores:_token_scores", TERM),
    "generate": (["generate", "--compare", "-n", "2"], "orpo_cli.evaluation.generation:generate_token_ids", TERM),
}


def contents(folder: Path) -> dict[Path, int]:
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return make_eval_run(tmp_path_factory.mktemp("commands"))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_leaves_the_run_unchanged(tmp_path: Path, run: RunDir, name: str) -> None:
    (command, *options), function, number = COMMANDS[name]
    before = contents(run.root)
    ended = interrupt_at(tmp_path, [command, run.root, *options], StopPoint(function), number, TERM)
    assert_interrupted(*ended, number.name, "Run the same command again")
    after = {
        path: time for path, time in contents(run.root).items() if command != "export" or path.parts[0] != "merged"
    }
    assert after == before  # an export merges first; a merge that is complete is kept
    assert [path for path in run.root.rglob(".*") if path.is_dir()] == []


@pytest.mark.parametrize(
    "stop",
    [
        StopPoint("subprocess:Popen.communicate"),
        StopPoint("subprocess:Popen._execute_child", after=True),  # it has started, and the command has no handle of it
    ],
    ids=["running", "starting"],
)
def test_a_converter_in_another_process_ends_with_the_command(
    tmp_path: Path,
    gguf_converter: Path,  # noqa: F811
    stop: StopPoint,
) -> None:
    run = make_exportable_run(tmp_path / "run")
    arguments = ["export", run.root, "--format", "gguf", "--gguf-type", "f16"]
    command = ForkedCommand(tmp_path / "command", arguments, stop=stop)

    def converters() -> list[psutil.Process]:
        children = psutil.Process(command.process).children(recursive=True)
        return [each for each in children if "convert_hf_to_gguf" in " ".join(each.cmdline())]

    command.wait_for_stop()
    command.wait_until(lambda: bool(converters()))
    running = converters()
    command.send(TERM)
    command.go_on()
    assert_interrupted(command.wait(), command.stderr, "SIGTERM")
    assert not [each for each in running if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert not run.export.exists() or list(run.export.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "function"),
    [
        (["data"], "orpo_cli.data.source_reader:SourceReader._truncate_batch"),
        (["plan"], "orpo_cli.cli.plan:build_plan"),
        (["validate"], "orpo_cli.cli.validate:load_complete_recipe"),
    ],
)
def test_a_command_on_a_recipe_leaves_no_cache_entry(tmp_path: Path, arguments: list[str], function: str) -> None:
    recipe, cache = write_recipe(tmp_path), tmp_path / "cache"

    def use_cache() -> None:
        os.environ.update(ORPO_CACHE=str(cache), ORPO_PAIR_CACHE="1")

    command = ForkedCommand(tmp_path / "command", [*arguments, recipe], stop=StopPoint(function), before=use_cache)
    command.wait_for_stop()
    command.send(HUP)
    command.go_on()
    assert_interrupted(command.wait(), command.stderr, "SIGHUP")
    assert not list(cache.rglob("*.arrow"))


def test_in_a_chat_on_a_terminal_ctrl_c_stops_the_answer_and_sigterm_the_chat(tmp_path: Path, run: RunDir) -> None:
    terminal, end = os.openpty()

    def use_terminal() -> None:
        os.dup2(end, 0)
        sys.stdin = os.fdopen(0)

    stop = StopPoint("orpo_cli.evaluation.chat:generate_token_ids")
    command = ForkedCommand(tmp_path, ["chat", run.root, "--max-new-tokens", "4"], stop=stop, before=use_terminal)
    os.write(terminal, b"first\n")
    command.wait_for_stop()
    command.send(INT)
    command.wait_until(lambda: "[stopped]" in command.stdout)
    command.send(TERM)
    assert_interrupted(command.wait(), command.stderr, "SIGTERM")
    os.close(terminal)
    os.close(end)
