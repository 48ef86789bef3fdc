"""Model card of a run: unfinished runs, runs without metrics, edited cards."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from support.card_run import make_card_run

from orpo_cli.card.model_card import edited_card, render_card, write_card
from orpo_cli.errors import UsageError
from orpo_cli.run_attempts import INTERRUPTED
from orpo_cli.rundir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_card_run(tmp_path / "run")


def test_the_card_of_an_unfinished_run_has_a_warning(run):
    run.write_run(status=INTERRUPTED)
    assert "did not finish" in render_card(run, parts="adapter")


def test_a_run_without_metrics_has_a_card(run):
    run.metrics.unlink()
    run.data_report.unlink()
    card = render_card(run, parts="adapter")
    assert "## Results" not in card
    assert ModelCard(card).data.library_name == "peft"


def test_an_edited_card_is_kept_and_a_generated_one_is_replaced(run):
    run.adapter.mkdir()
    write_card(run)
    first = run.card.read_text()
    run.write_run(steps=777)
    write_card(run)
    assert run.card.read_text() != first
    assert "777 steps" in run.card.read_text()
    run.card.write_text(run.card.read_text().replace("## Use", "## My use"))
    write_card(run)
    assert "## My use" in run.card.read_text()
    assert edited_card(run) == run.card.read_text()


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_an_edited_card_that_is_not_utf_8_is_kept_and_not_pushed(run, encoding):
    run.adapter.mkdir()
    run.card.write_text("# Mein Modell für Ärzte\n", encoding=encoding)
    before = run.card.read_bytes()
    write_card(run)
    assert run.card.read_bytes() == before
    with pytest.raises(UsageError, match=r"README\.md is not UTF-8") as caught:
        edited_card(run)
    assert "Save it as UTF-8" in (caught.value.remedy or "")
