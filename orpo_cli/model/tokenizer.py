"""Loading of the tokenizer, with its chat template, added tokens and padding token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.errors import MachineError, UsageError
from orpo_cli.model.added_tokens import add_tokens, data_tokens
from orpo_cli.model.builtin_chat_templates import BUILTIN_CHAT_TEMPLATES
from orpo_cli.model.chat_template_errors import ChatTemplateError, completion_suffix
from orpo_cli.model.load_errors import explain_load_errors
from orpo_cli.model.model_source import ModelSource
from orpo_cli.recipe.schema import TEMPLATE_SUFFIXES, ModelSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_REASON_CHARS = 1000  # a template chooses the text of its errors
MIN_TOKENS = 16  # without a file of the vocabulary, transformers makes a tokenizer of the special tokens only
SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
SENTENCEPIECE_PACKAGES = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}  # name on PyPI → module
TOKENIZER_FILES = "tokenizer files (tokenizer.json, tokenizer_config.json)"


def load_tokenizer(
    source: ModelSource[ModelSection], note: Callable[[str], None] = lambda _: None
) -> PreTrainedTokenizerBase:
    """The model's tokenizer with the recipe's chat template, added tokens and a padding token; loaded once for a source.

    ``note`` gets a message about added tokens, a chosen padding token, and a template that writes the date.
    """
    settings = source.section.chat_template, tuple(source.section.add_special_tokens)
    if settings not in source.tokenizers:
        source.tokenizers[settings] = _load_tokenizer(source)
    tokenizer: PreTrainedTokenizerBase
    tokenizer, notes = source.tokenizers[settings]
    for text in notes:
        note(text)
    return tokenizer


def _load_tokenizer(source: ModelSource[ModelSection]) -> tuple[PreTrainedTokenizerBase, list[str]]:
    """The tokenizer, and the notes on it."""
    from transformers import AutoTokenizer

    section = source.section
    notes: list[str] = []
    with (
        _explain_missing_packages(section.model_name_or_path, source.local_folder),
        explain_load_errors(section.model_name_or_path, TOKENIZER_FILES),
    ):
        tokenizer = AutoTokenizer.from_pretrained(source.pretrained_name, **source.hub_options)
    if len(tokenizer) < MIN_TOKENS:
        raise MachineError(
            f"{section.model_name_or_path}: its tokenizer has only {len(tokenizer)} tokens: the file with its vocabulary is missing.",
            remedy="Add the tokenizer.json of the model, or its tokenizer.model.",
        )
    if section.chat_template != "tokenizer":
        tokenizer.chat_template = resolve_chat_template(section.chat_template)
        _check_chat_template(tokenizer, section.chat_template)
    new = add_tokens(tokenizer, section.add_special_tokens)
    if new:
        notes.append(f"added to the vocabulary, and trained: {', '.join(new)}")
    if of_data := data_tokens(tokenizer, section.add_special_tokens):
        notes.append(f"tokens also in the texts of the data: {', '.join(of_data)}")
    if "strftime_now" in str(tokenizer.chat_template):
        notes.append(
            "the chat template writes the date into every prompt: pairs that are prepared on another day differ"
        )
    has_padding = tokenizer.pad_token is not None
    tokenizer = _set_padding(tokenizer)
    if not has_padding:
        notes.append(f"the tokenizer has no padding token: {tokenizer.pad_token} is used, and masked in the loss")
    return tokenizer, notes


def load_saved_tokenizer(folder: Path, *, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer that training saved with an adapter or a model, including its chat template."""
    from transformers import AutoTokenizer

    with _explain_missing_packages(str(folder), lambda: folder), explain_load_errors(str(folder), TOKENIZER_FILES):
        options = {"local_files_only": True, "trust_remote_code": trust_remote_code}
        return _set_padding(AutoTokenizer.from_pretrained(folder, **options))


@contextmanager
def _explain_missing_packages(name: str, folder_of: Callable[[], Path | None]) -> Iterator[None]:
    """Name the packages that transformers needs for a tokenizer that is only ``tokenizer.model``: its own error names another."""
    try:
        yield
    except MachineError as error:
        missing = [package for package, module in SENTENCEPIECE_PACKAGES.items() if not _is_installed(module)]
        folder = folder_of()
        files = [each for each in SENTENCEPIECE_FILES if folder is not None and (folder / each).is_file()]
        if folder is None or not missing or not files or (folder / "tokenizer.json").is_file():
            raise
        raise MachineError(
            f"{name}: its tokenizer is only {files[0]}, which needs {' and '.join(missing)}.",
            remedy=f"`pip install {' '.join(missing)}`, or add the tokenizer.json of the model.",
        ) from error


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package around the module is missing
        return False


def _set_padding(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = padding_token(tokenizer)
    return tokenizer


def padding_token(tokenizer: PreTrainedTokenizerBase) -> str:
    """A padding token from the vocabulary. Padding is masked, so any token works; a new one would need a new embedding."""
    vocabulary = tokenizer.get_vocab()
    candidates = ["<|finetune_right_pad_id|>", "<pad>", "<|endoftext|>", tokenizer.unk_token, tokenizer.eos_token]
    for token in candidates:
        if token is not None and token in vocabulary:
            return str(token)
    raise UsageError("the tokenizer has no padding token and none that could serve.", remedy="Use another model.")


def _check_chat_template(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise UsageError where the template that a recipe names cannot render a question and an answer."""
    try:
        completion_suffix(tokenizer)
    except ChatTemplateError as error:
        which = "" if _is_jinja(name) else f" {name}"
        raise UsageError(
            f"model.chat_template{which}: {error.reason[:MAX_REASON_CHARS]}.",
            remedy="Fix the template, or choose another.",
        ) from error


def resolve_chat_template(name: str) -> str:
    """The text of a chat template: built in, of a file, or ``name`` itself. Raises UsageError if it is none of these."""
    if name in BUILTIN_CHAT_TEMPLATES:
        return BUILTIN_CHAT_TEMPLATES[name]
    if _is_jinja(name):
        return name
    from orpo_cli.model.chat_template_limits import MAX_TEMPLATE_CHARS

    try:
        path = Path(name).expanduser()
        if path.is_file():
            # a recipe of a stranger must not show any other file of this machine in its pairs
            if path.suffix.lower() not in TEMPLATE_SUFFIXES:
                raise ValueError(f"its name does not end with {', '.join(TEMPLATE_SUFFIXES)}")
            if path.stat().st_size > MAX_TEMPLATE_CHARS:
                raise ValueError(f"it is larger than {MAX_TEMPLATE_CHARS:,} bytes")
            return path.read_text(encoding="utf-8")
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"model.chat_template {name[:200]}: cannot be read: {getattr(error, 'strerror', None) or error}.",
            remedy="Give a Jinja template in UTF-8.",
        ) from error
    raise UsageError(
        f"model.chat_template: {name!r} is neither a built-in template nor a file, and no Jinja itself.",
        remedy=f"Built in: {', '.join(sorted(BUILTIN_CHAT_TEMPLATES))}; or `tokenizer` for the one of the tokenizer.",
    )


def _is_jinja(name: str) -> bool:
    return "{{" in name or "{%" in name
