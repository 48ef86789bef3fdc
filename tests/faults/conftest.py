"""Fixtures of fault campaigns, and the table of their outcomes.

``ORPO_FAULTS_TABLE=PATH`` (`make test-faults`) writes the table to PATH, and each outcome as a line of JSON to build/faults.jsonl.
In a page, such as docs/reliability.md, the table replaces the one between the comments ``table`` and ``end of table``.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.faults.fork_server import ForkServer
from support.faults.outcome import Outcome, machine, table, write_table
from support.faults.prepared_runs import PreparedRuns

OUTCOMES: list[dict[str, Any]] = []
CASE_PER_TEST = dict.fromkeys(("ranks", "agreement"), "several processes")  # modules in which a test is a case
RECORDS = Path(__file__).parents[2] / "build" / "faults.jsonl"
STARTED = time.time()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """The fork server of this test process."""
    with ForkServer(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture(scope="session")
def runs(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> PreparedRuns:
    """Inputs, undisturbed runs and killed runs."""
    return PreparedRuns(server, tmp_path_factory.mktemp("runs"))


@pytest.fixture
def judge(record_property: Callable[[str, object], None]) -> Callable[[Outcome], None]:
    """Record an outcome for the table, then fail if it is not as documented."""

    def record(outcome: Outcome) -> None:
        record_property("outcome", outcome.as_dict())
        if outcome.problems:
            pytest.fail(outcome.explanation(), pytrace=False)

    return record


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collect the outcomes, also in the process that controls several test processes."""
    found = [value for name, value in report.user_properties if name == "outcome"]
    if report.when == "call" and "tests/faults" in report.nodeid and os.environ.get("ORPO_FAULTS_TABLE"):
        stem = Path(report.location[0]).stem.removeprefix("test_")
        campaign = CASE_PER_TEST.get(stem, stem.replace("_", " "))
        if not found and (report.failed or stem in CASE_PER_TEST):
            problems = [report.longreprtext[-500:]] if report.failed else []
            found = [Outcome(campaign, report.nodeid, problems=problems).as_dict()]
        RECORDS.parent.mkdir(exist_ok=True)
        with RECORDS.open("a" if OUTCOMES else "w", encoding="utf-8") as file:
            file.writelines(json.dumps(each, ensure_ascii=False) + "\n" for each in found)
        OUTCOMES.extend(found)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of outcomes and write it where ORPO_FAULTS_TABLE says."""
    path = os.environ.get("ORPO_FAULTS_TABLE")
    if path and OUTCOMES:
        text = f"{table(OUTCOMES)}\n\n{machine((time.time() - STARTED) / 60)}\n"
        terminalreporter.write_line(text)
        write_table(Path(path), text)
