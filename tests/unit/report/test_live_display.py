"""Display of a training: the log above the last line, what a narrow or simple terminal shows, and no secrets."""

from __future__ import annotations

import io
from typing import Any

import pytest
from support.terminal import Terminal

from orpo_cli import secret_values
from orpo_cli.report.console import Console
from orpo_cli.report.live_display import TrainingDisplay
from orpo_cli.report.progress import show_progress, show_status
from orpo_cli.report.step_table import COLUMNS
from orpo_cli.run_log import run_log

RECORD = {name: 0.25 for name, _, _ in COLUMNS}


class TerminalStream(io.StringIO):
    def isatty(self) -> bool:
        return True


def use_terminal(monkeypatch: pytest.MonkeyPatch, *, width: int = 80, **environment: str) -> TerminalStream:
    """Standard error of this test, not of a fixture: pytest sets it again for each phase of a test."""
    stream = TerminalStream()
    monkeypatch.setattr("sys.stderr", stream)
    for name, value in {
        "TERM": "xterm",
        "A_TOKEN": "Swordfish1",
        "COLUMNS": str(width),
        "LINES": "24",
        **environment,
    }.items():
        monkeypatch.setenv(name, value)
    return stream


def seen(stream: TerminalStream, width: int = 80) -> str:
    """What a person sees, with the scrollback."""
    terminal = Terminal(width)
    terminal.feed(stream.getvalue().replace("\n", "\r\n"))
    return terminal.text()


def train(display: TrainingDisplay, steps: int, **record: Any) -> None:
    display.begin(0, steps, (), (), 0.0)
    for step in range(1, steps + 1):
        display.progress(step, steps)
        display.show_metrics({"step": step, **RECORD, **record})


def searches() -> int:
    info = secret_values._known_masks.cache_info()
    return info.hits + info.misses


def test_a_refresh_of_the_display_does_not_search_for_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = use_terminal(monkeypatch)
    with TrainingDisplay(Console()) as display:
        assert display.live is not None
        train(display, 1)
        before = searches()
        display.live.refresh()
        assert searches() == before
        display.note("a note with Swordfish1\x1b[2J")
    assert "0.2500" in stream.getvalue()
    assert "a note with ${A_TOKEN}\\x1b[2J" in stream.getvalue()
    assert "Swordfish1" not in stream.getvalue()


def test_the_title_of_a_progress_bar_has_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = use_terminal(monkeypatch)
    with show_progress(Console()) as start:
        start("reading [Swordfish1]\x1b[2J")(1, 2)
    assert "reading [${A_TOKEN}]\\x1b[2J" in stream.getvalue()
    with show_status(Console()) as status:
        status("reading [Swordfish1]\x1b[2J")
    assert "Swordfish1" not in stream.getvalue()


def test_every_line_stays_in_the_scrollback_and_the_last_line_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = use_terminal(monkeypatch)
    with TrainingDisplay(Console()) as display:
        display.status("loading model")
        display.live.refresh()  # type: ignore[union-attr]
        assert "loading model" in seen(stream)
        train(display, 40)
        display.show_metrics({"step": 40, "eval_loss": 0.5, "eval_rewards/accuracies": 0.75})
        display.live.refresh()  # type: ignore[union-attr]
        assert "step 40/40" in seen(stream)
    lines = seen(stream).splitlines()
    assert [line.split()[0] for line in lines if line.split()[0].isdigit()] == [str(step) for step in range(1, 41)]
    assert lines[-1].split() == ["eval", "40", "0.5000", "0.75"]
    assert "elapsed" not in seen(stream)


@pytest.mark.parametrize("width", [30, 60, 80, 100, 160])
def test_no_line_is_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    stream = use_terminal(monkeypatch, width=width)
    with TrainingDisplay(Console()) as display:
        for status in ("", "evaluating", "reading a status that is much longer than a narrow terminal is wide"):
            train(display, 100, loss=12.3456)
            display.status(status, "12/40" if status else "")
            line = display._last_line().plain
            assert len(line) < width
            assert "step 100/100" in line
            assert "left 0:00:00" in line
            assert ("elapsed" in line) == (width > (60 if status == "evaluating" else 40) and len(status) < 20)
    rows = [line for line in seen(stream, width).splitlines() if line.strip()[:1].isdigit()]
    assert len(rows) == 300
    assert all("12.3456" in row for row in rows)


def test_before_the_first_step_there_is_a_status_and_the_number_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    use_terminal(monkeypatch)
    with TrainingDisplay(Console()) as display:
        display.status("preparing pairs")
        assert display._last_line().plain.split(maxsplit=1)[1] == "preparing pairs  elapsed 0:00:00"
        display.total = 32
        display.status("loading model", "model.safetensors 1.2G/4.9G")
        shown = display._last_line().plain
        assert shown.split(maxsplit=1)[1].startswith("loading model (model.safetensors 1.2G/4.9G)  step 0/32  ")
        assert "left" not in shown


def test_bars_of_the_libraries_become_a_part_of_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    from tqdm.auto import tqdm

    stream = use_terminal(monkeypatch)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    with TrainingDisplay(Console()) as display:
        display.status("loading model")
        with tqdm(total=4_000_000_000, unit="B", unit_scale=True, desc="model.safetensors", disable=False) as bar:
            bar.update(1_000_000_000)
            bar.refresh()
            assert "(model.safetensors 1.00G/4.00G)" in display._last_line().plain
        display.status("preparing the trainer")
        assert "safetensors" not in display._last_line().plain
        for _ in tqdm(range(3), desc="Loading weights", disable=False):
            pass
    assert "Loading weights" not in seen(stream)
    assert "%" not in seen(stream)
    assert seen(stream) == ""


def test_a_simple_terminal_has_rows_and_no_movements(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = use_terminal(monkeypatch, TERM="dumb")
    with TrainingDisplay(Console()) as display:
        train(display, 2)
    assert "\x1b" not in stream.getvalue()
    assert [line.split()[0] for line in stream.getvalue().splitlines()] == ["step", "1", "2"]


def test_no_color_leaves_out_the_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = use_terminal(monkeypatch, NO_COLOR="1")
    with TrainingDisplay(Console()) as display:
        train(display, 2)
        display.console.warn("a warning")
    assert not [code for code in ("\x1b[3", "\x1b[9", "38;5") if code in stream.getvalue()]


@pytest.mark.parametrize("quiet", [False, True])
def test_a_pipe_has_plain_lines_and_the_log_has_the_statuses(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, quiet: bool
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes no terminal of a pipe
    logged: list[str] = []
    monkeypatch.setattr(run_log, "write", logged.append)
    with TrainingDisplay(Console(quiet=quiet)) as display:
        display.status("loading model")
        train(display, 2, grad_norm=1.0)
    lines = capfd.readouterr().err.splitlines()
    expected = (
        "step 2/2  loss 0.2500  NLL 0.2500  OR loss -0.2500  accuracy 0.25  margin 0.2500  grad norm 1.000  lr 2.50e-01  "
        "tok/s 0  GB 0.25  left 0:00:00"
    )
    assert lines[1:] == ([] if quiet else [expected])
    assert logged[0] == "loading model"
    assert logged[-1] == expected


@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_terminal_of_a_few_columns_is_no_error(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    stream = use_terminal(monkeypatch, width=width)
    Console().note("two words")
    with TrainingDisplay(Console()) as display:
        display.status("loading model")
        train(display, 2)
        display.live.refresh()  # type: ignore[union-attr]
    assert stream.getvalue().split()[:2] == ["two", "words"]


def test_lines_end_between_words_and_a_path_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = use_terminal(monkeypatch, width=40)
    path = "/a/" + "long/" * 12 + "name.jsonl"
    Console().note(f"the training pairs are those in the file {path} and are read again")
    Console().warn("only the label of a warning has a colour")
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert lines[:4] == ["the training pairs are those in the", "file", path, "and are read again"]
    assert lines[4].startswith("\x1b[1;35mwarning:\x1b[0m only the label")
