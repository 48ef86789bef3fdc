"""License of the base model: from the card of a local base, and in the card of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGUFWriter
from huggingface_hub import ModelCard
from support.card_run import make_card_run

from orpo_cli.card.base_license import BaseLicense, read_local_license
from orpo_cli.card.model_card import render_card
from orpo_cli.rundir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_card_run(tmp_path / "run")


@pytest.mark.parametrize("gated", [True, False])
def test_the_model_has_the_license_of_its_base(run, gated):
    terms = BaseLicense("other", "big-community", "https://example.org/L", gated)
    card = render_card(run, parts="merged", base_license=terms, license_accepted=True)
    data = ModelCard(card).data
    assert (data.license, data.license_name, data.license_link) == ("other", "big-community", "https://example.org/L")
    assert ("accept its terms there" in card) is gated
    assert ("these terms allow it" in card) is gated


def test_the_license_of_a_local_base_is_read_from_its_card(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert read_local_license(str(tmp_path)) is None
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\nA base.\n")
    assert read_local_license(str(tmp_path)) == BaseLicense("apache-2.0")
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n")
    assert read_local_license(str(tmp_path)) is None
    assert read_local_license("some/model") is None


def test_the_license_of_a_gguf_file_is_read_from_it(tmp_path):
    path = tmp_path / "base.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_license("other")
    writer.add_license_name("big-community")
    writer.add_license_link("https://example.org/L")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert read_local_license(str(path)) == BaseLicense("other", "big-community", "https://example.org/L")
    path.write_bytes(b"GGUF" + bytes(4))
    assert read_local_license(str(path)) is None
