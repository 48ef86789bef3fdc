"""The tokenizer has the recipe's chat template and a padding token; the vocabulary grows only by added tokens."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.data_tokenizers import byte_level
from support.tiny import tiny_tokenizer

from orpo_cli.data.formats.preference import read as read_preference
from orpo_cli.data.pair import Pair
from orpo_cli.data.pair_encoder import PairEncoder
from orpo_cli.errors import MachineError, UsageError
from orpo_cli.model.builtin_chat_templates import BUILTIN_CHAT_TEMPLATES
from orpo_cli.model.model_source import ModelSource
from orpo_cli.model.tokenizer import load_saved_tokenizer, load_tokenizer
from orpo_cli.recipe.schema import ModelSection

MESSAGES = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "You"}]


def saved(folder: Path, tokenizer: object) -> str:
    tokenizer.save_pretrained(folder)  # type: ignore[attr-defined]
    (folder / "config.json").write_text("{}")
    return str(folder)


def test_the_tokenizers_template_is_kept_unless_the_recipe_has_a_file_or_a_text(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", tiny_tokenizer())
    default = load_tokenizer(ModelSource(ModelSection(model_name_or_path=model)))
    assert default.chat_template == tiny_tokenizer().chat_template
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    (tmp_path / "mine.jinja").write_text(template)
    for given in (str(tmp_path / "mine.jinja"), template):
        loaded = load_tokenizer(ModelSource(ModelSection(model_name_or_path=model, chat_template=given)))
        assert loaded.apply_chat_template(MESSAGES, tokenize=False) == "user: Who?\nassistant: You\n"
    with pytest.raises(UsageError, match="neither a built-in template nor a file"):
        load_tokenizer(ModelSource(ModelSection(model_name_or_path=model, chat_template="wizard")))


@pytest.mark.parametrize("name", BUILTIN_CHAT_TEMPLATES)
def test_a_built_in_template_adds_no_token(name: str, tmp_path: Path) -> None:
    base = byte_level(["<s>", "</s>"], None)
    loaded = load_tokenizer(ModelSource(ModelSection(model_name_or_path=saved(tmp_path, base), chat_template=name)))
    ids = loaded.apply_chat_template(MESSAGES)["input_ids"]
    assert len(loaded) == len(base)
    assert max(ids) < len(base)
    assert "Who?" in loaded.decode(ids)
    assert "You" in loaded.decode(ids)


def test_only_configured_tokens_are_added_with_a_note(tmp_path: Path) -> None:
    base = byte_level(["<s>", "</s>"], None)
    notes: list[str] = []
    model = ModelSection(
        model_name_or_path=saved(tmp_path, base), chat_template="chatml", add_special_tokens=["<|im_start|>", "</s>"]
    )
    loaded = load_tokenizer(ModelSource(model), notes.append)
    assert len(loaded) == len(base) + 1
    assert notes == ["added to the vocabulary, and trained: <|im_start|>"]


def test_a_padding_token_is_chosen_from_the_vocabulary_with_a_note(tmp_path: Path) -> None:
    base = byte_level(["<s>", "</s>"], None)
    base.pad_token = None
    notes: list[str] = []
    loaded = load_tokenizer(ModelSource(ModelSection(model_name_or_path=saved(tmp_path, base))), notes.append)
    assert (loaded.pad_token, loaded.padding_side, len(loaded)) == ("</s>", "right", len(base))
    assert notes == ["the tokenizer has no padding token: </s> is used, and masked in the loss"]


def test_a_template_that_writes_the_date_causes_a_note(tmp_path: Path) -> None:
    dated = tiny_tokenizer()
    dated.chat_template = "Today is {{ strftime_now('%d %b %Y') }}.\n" + str(dated.chat_template)
    notes: list[str] = []
    load_tokenizer(ModelSource(ModelSection(model_name_or_path=saved(tmp_path, dated))), notes.append)
    assert notes == [
        "the chat template writes the date into every prompt: pairs that are prepared on another day differ"
    ]


RESERVED = "<|reserved|>"
ADDED = ["<|im_start|>", "<|im_end|>", "<|cite|>", "<think>", "</s>", RESERVED]


@pytest.mark.parametrize("reload", [False, True], ids=["added", "saved and loaded"])
def test_added_tokens_are_tokens_in_messages_unless_the_template_writes_them(tmp_path: Path, reload: bool) -> None:
    notes: list[str] = []
    model = ModelSection(
        model_name_or_path=saved(tmp_path / "base", byte_level(["<s>", "</s>", RESERVED], None)),
        chat_template="chatml",
        add_special_tokens=ADDED,
    )
    tokenizer = load_tokenizer(ModelSource(model), notes.append)
    if reload:
        saved(tmp_path / "again", tokenizer)
        tokenizer = load_saved_tokenizer(tmp_path / "again", trust_remote_code=False)
    text = "<think><|cite|> a </s> <|im_end|> b " + RESERVED
    messages = {"prompt": "What?", "chosen": [{"role": "assistant", "content": text}]}
    pair = read_preference({**messages, "rejected": [{"role": "assistant", "content": "No."}]}, Counter())
    ids = PairEncoder(tokenizer).encode(pair).chosen
    names = tokenizer.convert_ids_to_tokens(ids)
    assert [names.count(token) for token in ADDED] == [0, 1, 1, 1, 0, 1]  # <|im_end|> once: the template's
    assert names[-1] == "<|im_end|>"
    assert tokenizer.decode(ids) == text + "<|im_end|>"
    assert f"tokens also in the texts of the data: <|cite|>, <think>, {RESERVED}" in notes


def test_added_token_in_a_text_without_template(tmp_path: Path) -> None:
    folder = saved(tmp_path, byte_level(["<s>", "</s>"], None))
    tokenizer = load_tokenizer(ModelSource(ModelSection(model_name_or_path=folder, add_special_tokens=["<sep>"])))
    ids = PairEncoder(tokenizer).encode(Pair("a<sep>", "b<sep>", "c"))
    added = tokenizer.convert_tokens_to_ids("<sep>")
    assert (ids.prompt.count(added), ids.chosen.count(added), ids.rejected.count(added)) == (1, 1, 0)


@pytest.mark.skipif(find_spec("sentencepiece") is not None, reason="the package that is missing here is installed")
def test_tokenizer_of_sentencepiece_names_the_packages_it_needs(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    # of a sentencepiece model: the pieces <unk>, <s>, </s>, and _a
    pieces = [b"\n\x05<unk>\x18\x02", b"\n\x03<s>\x18\x03", b"\n\x04</s>\x18\x03", "\n\x04▁a".encode()]
    (tmp_path / "tokenizer.model").write_bytes(b"".join(b"\n" + bytes([len(piece)]) + piece for piece in pieces))
    with pytest.raises(MachineError, match=r"is only tokenizer[.]model, which needs sentencepiece") as caught:
        load_tokenizer(ModelSource(ModelSection(model_name_or_path=str(tmp_path))))
    assert "pip install sentencepiece" in str(caught.value.remedy)
    assert caught.value.exit_code == 3


def test_tokenizer_without_vocabulary_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    with pytest.raises(MachineError, match="the file with its vocabulary is missing"):
        load_tokenizer(ModelSource(ModelSection(model_name_or_path=str(tmp_path))))
