"""Broken streams, limits and unusual environments, as a shell makes them: the training goes on, or ends with a message."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.faults.outcome import Outcome
from support.faults.prepared_runs import last_lines, state_of

ORPO = f"{sys.executable} -P -m orpo_cli train recipe.yaml"  # -P: as a script, which does not look into the working directory


@dataclass(frozen=True)
class Case:
    """``script`` is run by sh; ``{orpo}`` trains. ``codes``: the exit codes that are documented."""

    campaign: str
    name: str
    script: str
    codes: tuple[int, ...] = (0,)


def stream(name: str, script: str, *codes: int) -> Case:
    return Case("broken streams", name, script, codes or (0,))


def limit(name: str, script: str, *codes: int) -> Case:
    return Case("limits and environment", name, script, codes or (0,))


CASES = (
    stream("closed-stderr", "{orpo} 2>&-"),
    stream("closed-stdout", "{orpo} >&-"),
    stream("closed-stdin", "{orpo} <&-"),
    stream("all-closed", "{orpo} <&- >&- 2>&-"),
    stream("stderr-to-head", "({orpo} 2>&1; echo $? > code) | head -n 1; exit $(cat code)"),
    stream("stderr-to-head-while-training", "({orpo} 2>&1; echo $? > code) | head -n 34; exit $(cat code)"),
    stream("stdout-to-true", "({orpo}; echo $? > code) | true; exit $(cat code)"),
    stream("json-to-true", "({orpo} --json; echo $? > code) | true; exit $(cat code)"),
    stream("stderr-on-a-full-disk", "{orpo} 2>/dev/full"),
    stream("stdout-on-a-full-disk", "{orpo} >/dev/full", 0, 3),
    stream("both-on-a-full-disk", "{orpo} >/dev/full 2>&1", 0, 3),
    stream("json-to-closed-stdout", "{orpo} --json >&-", 3),
    stream("json-on-a-full-disk", "{orpo} --json >/dev/full", 0, 3),
    limit("32-file-handles", "ulimit -n 32; {orpo}", 0, 3),
    limit("12-file-handles", "ulimit -n 12; {orpo}", 0, 3),
    limit("address-space-of-4-GB", "ulimit -v 4000000; {orpo}", 0, 3),
    limit("address-space-of-1-GB", "ulimit -v 1000000; {orpo}", 3),
    limit("files-of-50-kB", "ulimit -f 100; {orpo}", 3),
    limit("files-of-1-kB", "ulimit -f 2; {orpo}", 3),
    limit("c-locale", "LC_ALL=C {orpo}"),
    limit("ascii-streams", "PYTHONIOENCODING=ascii LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {orpo}"),
    limit("unknown-locale", "LC_ALL=xx_YY.none LANGUAGE=xx {orpo}"),
    limit("no-home", "HOME=/nonexistent HF_HOME= XDG_CACHE_HOME= {orpo}", 0, 3),
    limit("no-temporary-folder", "TMPDIR=/nonexistent {orpo}", 0, 3),
    limit("removed-working-directory", "mkdir gone; cd gone; rmdir ../gone; {orpo}", 2, 3),
    limit("terminal-of-one-column", "COLUMNS=1 LINES=1 TERM=dumb {orpo}"),
    limit("recipe-of-a-pipe", "cat recipe.yaml | {orpo_stdin}"),
)  # fmt: skip
SHORT = {"stderr-to-head"}


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "case", [pytest.param(each, id=each.name, marks=[] if each.name in SHORT else pytest.mark.slow) for each in CASES]
)
def test_a_training_goes_on_or_ends_with_a_message(case, runs, judge):
    outcome = Outcome(case.campaign, case.name)
    folder = runs.folder(f"shell-{case.name}", "lora")
    script = case.script.format(orpo=ORPO, orpo_stdin=ORPO.replace("recipe.yaml", "-"))
    done = subprocess.run(
        ["sh", "-c", script], cwd=folder, env=environment(), capture_output=True, text=True, timeout=200, check=False
    )
    outcome.command, outcome.exit_code = script.replace(sys.executable, "python"), done.returncode
    outcome.said, outcome.state = done.stdout + done.stderr, state_of(folder / "run")
    outcome.expect(done.returncode in case.codes, f"exit code {done.returncode}: {last_lines(outcome.said)}")
    outcome.expect("Traceback" not in outcome.said, "a traceback")
    outcome.expect("Exception ignored" not in outcome.said, "an exception in the interpreter's shutdown")
    if done.returncode == 3:
        outcome.expect("error: " in done.stderr or "2>" in script or ">/dev/full" in script, "no message")
    if done.returncode == 0 or case.campaign == "broken streams":
        outcome.expect(outcome.state.startswith("finished"), f"the run is not finished: {outcome.state}")
    runs.finish(outcome, folder, "lora")
    judge(outcome)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_training_goes_on_without_its_terminal(runs, judge):
    """A terminal that is closed, and no SIGHUP, as under nohup: writing to it is an error of the device."""
    outcome = Outcome(
        "broken streams", "closed terminal", "train recipe.yaml, its terminal closed after the first output"
    )
    folder = runs.folder("shell-terminal", "lora")
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "orpo_cli", "train", "recipe.yaml"]
    process = subprocess.Popen(
        command, cwd=folder, env=environment(), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    outcome.said = os.read(ours, 1000).decode(errors="replace")
    os.close(ours)
    outcome.exit_code, outcome.state = process.wait(200), state_of(folder / "run")
    outcome.expect(outcome.exit_code in (0, 3), f"exit code {outcome.exit_code}")  # 3: the result could not be printed
    outcome.expect(outcome.state.startswith("finished"), f"the run is not finished: {outcome.state}")
    runs.finish(outcome, folder, "lora")
    judge(outcome)
