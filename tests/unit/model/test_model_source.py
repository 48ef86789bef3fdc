"""A model is located without the hub if its name looks like a path, and its configuration is read once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.tiny import save_tiny_model

from orpo_cli.errors import MachineError, UsageError
from orpo_cli.model.builtin_chat_templates import BUILTIN_CHAT_TEMPLATES
from orpo_cli.model.model_source import ModelSource, locate
from orpo_cli.model.tokenizer import padding_token
from orpo_cli.planning.plan import ModelPlan
from orpo_cli.recipe.schema import ModelSection


def test_hub_ids_folders_and_gguf_files_are_distinguished(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert locate("HuggingFaceTB/SmolLM2-135M").kind == "hub"
    assert locate("gpt2").kind == "hub"
    assert locate(str(tmp_path)).kind == "folder"
    assert locate(str(tmp_path / "x.gguf")).kind == "gguf"


@pytest.mark.parametrize("name", ["./missing", "/missing/model", "~/missing", "missing.gguf", "a/b/c", "with space"])
def test_a_path_that_does_not_exist_is_an_error(name: str) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        locate(name)


def test_the_error_for_a_folder_without_a_model_names_its_content(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no config"):
        locate(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match="LoRA adapter"):
        locate(str(tmp_path))


def test_files_inside_packages_are_found_without_importing_them() -> None:
    with pytest.raises(MachineError, match="not installed"):
        locate("package://no_such_package/x.gguf")
    with pytest.raises(MachineError, match="no such file"):
        locate("package://yaml/x.gguf")
    with pytest.raises(UsageError, match="of the form"):
        locate("package://yaml")


@pytest.mark.parametrize("name", sorted(BUILTIN_CHAT_TEMPLATES))
def test_each_built_in_template_renders_a_conversation_with_a_system_message(name: str) -> None:
    from support.tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = BUILTIN_CHAT_TEMPLATES[name]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    conversation = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": "four"}], tokenize=False)
    assert conversation.startswith(prompt)
    positions = [prompt.index(word) for word in ("Be brief.", "one", "two", "three")]
    assert positions == sorted(positions)
    assert "four" in conversation.removeprefix(prompt)


def test_padding_never_grows_the_vocabulary() -> None:
    from support.tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    before = len(tokenizer)
    tokenizer.pad_token = None
    assert padding_token(tokenizer) == "<|endoftext|>"
    assert len(tokenizer) == before


def test_a_source_reads_the_configuration_once_and_gives_copies(tmp_path: Path) -> None:
    section = ModelSection(model_name_or_path=str(save_tiny_model(tmp_path / "model")))
    source = ModelSource(section)
    source.config().vocab_size = 7  # a copy
    (tmp_path / "model" / "config.json").unlink()
    decided: dict[str, Any] = {"dtype": "bfloat16", "attn_implementation": "sdpa"}
    planned = source.with_section(ModelPlan(**{**dict(section), **decided}))
    assert planned.config().to_dict() == source.config().to_dict()
    assert source.config().vocab_size > 7
    assert planned.location is source.location
    with pytest.raises(UsageError, match="has no config"):
        ModelSource(section).config()
