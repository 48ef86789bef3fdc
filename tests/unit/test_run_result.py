"""Result of a run: what counts as damage, and what as an edit of the user."""

from __future__ import annotations

from pathlib import Path

import pytest

from orpo_cli.run_result import find_result_damage, result_files

CONTENTS = {
    "adapter_config.json": '{"base_model_name_or_path": "a/b"}',
    "chat_template.jinja": "{{ x }}",
    "w.safetensors": "1234",
}


@pytest.mark.parametrize(
    ("name", "content", "damaged"),
    [
        ("adapter_config.json", '{"base_model_name_or_path": "/models/b"}', False),
        ("adapter_config.json", '{"base_model_name', True),
        ("adapter_config.json", "", True),
        ("chat_template.jinja", "{{ x }}{{ y }}", False),
        ("chat_template.jinja", "", True),
        ("w.safetensors", "12345", True),
        ("README.md", "edited", False),
    ],
)
def test_an_edit_is_no_damage(tmp_path: Path, name: str, content: str, damaged: bool) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for each, text in CONTENTS.items():
        (adapter / each).write_text(text)
    recorded = result_files(tmp_path, [adapter])
    (adapter / name).write_text(content)
    damage = find_result_damage(tmp_path, recorded, [adapter])
    assert (damage is not None) == damaged, damage
