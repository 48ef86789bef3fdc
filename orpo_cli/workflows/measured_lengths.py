"""Measured lengths of the pairs in local files, cached: a second plan of the same data loads no tokenizer and reads no rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import DataError, OrpoError, Problem
from orpo_cli.estimate import pair_lengths
from orpo_cli.estimate.pair_lengths import PairLengths, PairSize
from orpo_cli.json_cache import code_digest, read_cached, write_cached
from orpo_cli.planning.plan import DatasetPlan
from orpo_cli.recipe.schema import ModelSection
from orpo_cli.redaction import redact_record

if TYPE_CHECKING:
    from orpo_cli.data.prepare import PairTables
    from orpo_cli.model.model_source import ModelSource

_KIND = "pair-lengths"
_WEIGHTS = {".bin", ".gguf", ".h5", ".msgpack", ".onnx", ".pt", ".pth", ".safetensors"}  # files without a tokenizer
_DATE = "strftime_now"  # a template with it writes the date of today


@dataclass(frozen=True)
class Preparation:
    """What is prepared to measure it. ``max_length`` in tokens; ``pairs_needed``: of streamed sources."""

    dataset: DatasetPlan
    source: ModelSource[ModelSection]
    max_length: int
    pairs_needed: int | None


def cached_lengths(preparation: Preparation) -> PairLengths | None:
    """Lengths of the train pairs, with notes and warnings; None where their preparation fails. Raises DataError for bad data."""
    key = _key(preparation)
    found = None if key is None else read_cached(_KIND, key)
    if found is not None:
        return _lengths(found)
    prepared = _prepare(preparation)
    if prepared is None:
        return None
    from orpo_cli.data.audit import data_warnings

    tables = {"train": prepared.train} | ({} if prepared.eval is None else {"eval": prepared.eval})
    columns = [prepared.train.token_counts(part).tolist() for part in ("prompt", "chosen", "rejected")]
    value: dict[str, Any] = {
        "pairs": [list(each) for each in zip(*columns, strict=True)],
        "notes": list(prepared.report.train_notes()),
        "held_out": prepared.report.eval_pairs,
        "warnings": [asdict(each) for each in data_warnings(tables, prepared.report)],
    }
    varies = _DATE in str(prepared.encoder.tokenizer.chat_template)
    # The key again: a file may have changed, or have been downloaded, since it was computed.
    if key is not None and not varies and redact_record(value) == value and _key(preparation) == key:
        write_cached(_KIND, key, value)
    return _lengths(value)


def _lengths(value: dict[str, Any]) -> PairLengths:
    pairs = tuple(PairSize(*each) for each in value["pairs"])
    warnings = tuple(Problem(**each) for each in value["warnings"])
    return PairLengths(pairs, measured=True, notes=tuple(value["notes"]), warnings=warnings, held_out=value["held_out"])


def _prepare(preparation: Preparation) -> PairTables | None:
    from orpo_cli.data.prepare import prepare_tables
    from orpo_cli.model.tokenizer import load_tokenizer

    try:
        return prepare_tables(
            preparation.dataset,
            load_tokenizer(preparation.source),
            max_length=preparation.max_length,
            max_prompt_length=preparation.dataset.max_prompt_length,
            note=lambda _: None,
            pairs_needed=preparation.pairs_needed,
        )
    except DataError:
        raise
    except OrpoError:
        return None


def _key(preparation: Preparation) -> list[Any] | None:
    """Everything that decides lengths and notes; None where a part of it is not in local files."""
    from orpo_cli.data.pair_cache import is_cache_enabled
    from orpo_cli.digests import file_xxh3
    from orpo_cli.model.tokenizer import resolve_chat_template

    dataset, section = preparation.dataset, preparation.source.section
    sources = [*dataset.train, *(dataset.eval if isinstance(dataset.eval, list) else [])]
    files = [Path(each.path) for each in sources]
    folder = preparation.source.local_folder()
    if folder is None or section.trust_remote_code or not all(file.is_file() for file in files):
        return None
    if not is_cache_enabled():
        return None
    try:
        own = section.chat_template == "tokenizer"
        template = "" if own else resolve_chat_template(section.chat_template)
        tokenizer = {str(path.relative_to(folder)): file_xxh3(path) for path in _tokenizer_files(folder)}
        data = {str(file): file_xxh3(file) for file in files}
    except (OSError, OrpoError):  # the preparation reports it
        return None
    lengths = [preparation.max_length, preparation.pairs_needed]
    return [dataset.model_dump(), data, tokenizer, template, section.add_special_tokens, lengths, _code()]


def _tokenizer_files(folder: Path) -> list[Path]:
    """All files of a model's folder but its weights, and chat templates in folders of it."""
    found = [*folder.iterdir(), *folder.glob("*/*.jinja")]
    return sorted(path for path in found if path.suffix not in _WEIGHTS and path.is_file())


@cache
def _code() -> str:
    """Digest of the code that prepares pairs, and of the versions of its libraries."""
    from orpo_cli.data import pair_cache
    from orpo_cli.model import (
        added_tokens,
        builtin_chat_templates,
        chat_template_limits,
        chat_template_watch,
        tokenizer,
    )

    modules = (
        added_tokens, builtin_chat_templates, chat_template_limits, chat_template_watch, tokenizer, pair_lengths,
    )  # fmt: skip
    paths = [Path(__file__), *(Path(str(each.__file__)) for each in modules)]
    libraries = ("transformers", "tokenizers", "jinja2", "pyarrow", "datasets")
    return code_digest(libraries, paths) + pair_cache.code_key()
