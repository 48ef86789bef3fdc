"""Log of an attempt: lines wait for the run directory and for a full disk; nothing in it has secrets."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.forks import start_fork, wait

from orpo_cli.cache_entry import cached_entry
from orpo_cli.file_lock import try_lock
from orpo_cli.redaction import REDACTED
from orpo_cli.run_log import RunLog, log_library_messages, run_log

SIGNED = "https://s3.example.org/x?X-Amz-Signature=abc123"


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[Path]:
    """The file of the log of this process, with the messages of the libraries."""
    factory, show = logging.getLogRecordFactory(), warnings.showwarning
    run_log.discard()
    log_library_messages()
    run_log.open(tmp_path / "logs" / "attempt-1.log")
    yield tmp_path / "logs" / "attempt-1.log"
    run_log.discard()
    logging.setLogRecordFactory(factory)
    warnings.showwarning = show


def test_lines_before_the_run_directory_exists_are_written_when_it_does(tmp_path: Path) -> None:
    log, path = RunLog(), tmp_path / "logs" / "attempt-1.log"
    log.write("a plan\nof two lines")
    log.open(path)
    log.write("step 1")
    lines = path.read_text().splitlines()
    assert [line[21:] for line in lines] == ["a plan", "of two lines", "step 1"]
    assert all(line[10] == "T" and line[19:21] == "Z " for line in lines)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_lines_wait_while_the_disk_is_full(tmp_path: Path) -> None:
    log = RunLog()
    log.open(Path("/dev/full"))
    log.write("lost?")
    log.write("no")
    log.open(tmp_path / "log")
    assert [line[21:] for line in (tmp_path / "log").read_text().splitlines()] == ["lost?", "no"]


def test_half_a_line_is_completed_when_there_is_space_again(tmp_path: Path) -> None:
    import resource

    log, path, limit = RunLog(), tmp_path / "log", resource.getrlimit(resource.RLIMIT_FSIZE)
    log.open(path)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30, limit[1]))
        log.write("the disk is full in this line")
        assert path.stat().st_size == 30
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    log.write("next")
    assert [line[21:] for line in path.read_text().splitlines()] == ["the disk is full in this line", "next"]


def test_a_log_that_cannot_be_created_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logs").write_text("a file")
    RunLog().open(tmp_path / "logs" / "attempt-1.log")
    assert "cannot be written" in capsys.readouterr().err


def test_log_records_of_libraries_are_redacted_and_logged(logged: Path) -> None:
    logger, said = logging.getLogger("some_library"), []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    logger.propagate = False
    try:
        logger.warning("HTTP Error %s for %s", 500, SIGNED)
    finally:
        logger.removeHandler(handler)
    assert said == [f"HTTP Error 500 for https://s3.example.org/x?{REDACTED}"]
    assert said[0] in logged.read_text()
    assert "some_library WARNING: " in logged.read_text()


def test_a_traceback_in_a_log_record_has_no_secrets(logged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError(SIGNED)
    except ValueError:
        logging.getLogger("another_library").exception("failed")
    assert "ValueError" in logged.read_text()
    assert "abc123" not in logged.read_text() + capsys.readouterr().err


def test_warnings_of_libraries_are_redacted_and_logged(logged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show  # pytest's own would record it
        warnings.warn(f"see {SIGNED}", stacklevel=1)
    for text in (logged.read_text(), capsys.readouterr().err):
        assert f"see https://s3.example.org/x?{REDACTED}" in text
        assert "abc123" not in text


def test_a_warning_of_this_package_has_no_file_name_and_no_line_of_source(
    logged: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    show = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show  # pytest's own would record it
        holder = try_lock(tmp_path / "model.lock")
        assert holder is not None
        threading.Timer(0.3, holder.release).start()
        cached_entry(tmp_path / "model", lambda folder: None, warnings.warn, what="converts model.gguf")
    assert capsys.readouterr().err == "warning: waiting for another process that converts model.gguf\n"
    assert logged.read_text().endswith("warning: waiting for another process that converts model.gguf\n")


def test_the_log_is_not_inherited_by_subprocesses(logged: Path) -> None:
    open_files = [Path(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    found = [each for each in open_files if each.exists() and each.resolve() == logged]
    assert [os.get_inheritable(int(each.name)) for each in found] == [False]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_logs_although_a_thread_was_writing_at_the_fork(logged: Path) -> None:
    codes: list[int] = []
    thread = threading.Thread(
        target=lambda: codes.append(wait(start_fork(lambda: run_log.write("from the worker")), 10))
    )
    with run_log._lock:
        thread.start()
        thread.join(timeout=60)
    assert codes == [0]
    assert "from the worker" in logged.read_text()


def test_an_object_without_text_in_a_log_record_does_not_end_the_run(
    logged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    logger = logging.getLogger("broken_library")
    handler = logging.StreamHandler()
    logger.addHandler(handler)
    logger.propagate = False
    try:
        logger.warning("it is %s", Broken())
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
    assert "Logging error" in capsys.readouterr().err
