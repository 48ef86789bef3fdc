"""Fingerprints of a run's inputs: data, tokenizer, chat template and base weights, which a resumed run compares.

With another input, the steps after the resumption are not those of the run that was started, without an error of any library.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from orpo_cli.rundir import RunDir
from orpo_cli.training.resume import Input, InputsChanged, recorded_fingerprints

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from orpo_cli.data.prepare import PreparedData

Fingerprints = dict[str, Any]
MAX_BLOCKS, BLOCK_DIGITS = 1024, 6  # digests of as many blocks of pairs tell where the first difference is


@dataclass(frozen=True)
class InputChange:
    """An input that differs from the one that the run was started with."""

    kind: Input
    text: str


def fingerprints(tokenizer: PreTrainedTokenizerBase, pairs: PreparedData) -> Fingerprints:
    """The fingerprints that run.json keeps, without those of the weights: ``BaseDigests`` computes these meanwhile."""
    return {
        "data": {
            "sources": {f"{each.part}: {each.path}": each.fingerprint for each in pairs.report.sources},
            **{part: _part_fingerprint(pairs, part) for part in pairs.report.fingerprints},
        },
        **tokenizer_fingerprints(tokenizer),
    }


def tokenizer_fingerprints(tokenizer: PreTrainedTokenizerBase) -> Fingerprints:
    """Digests of the vocabulary with its rules and added tokens, and of the chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    for setting in ("padding", "truncation"):  # those of the last call
        rules.pop(setting, None)
    special = sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items())
    return {"tokenizer": _digest([rules, special]), "chat_template": _digest(tokenizer.chat_template)}


def refuse_changed_inputs(
    rundir: RunDir, now: Fingerprints, pairs: PreparedData, allowed: Collection[Input]
) -> list[InputChange]:
    """Compare the inputs with those of the run, if these are recorded. Returns the changes, all of them ``allowed``.

    Raises InputsChanged for any other change.
    """
    before = recorded_fingerprints(rundir)
    changes = list(_changes(before, now, pairs))
    refused = [change for change in changes if change.kind not in allowed]
    if refused:
        options = " ".join(f"--allow-changed {kind}" for kind in dict.fromkeys(change.kind for change in refused))
        raise InputsChanged(
            f"{rundir.root} was started with other inputs:\n  " + "\n  ".join(change.text for change in refused),
            remedy=f"Restore the original inputs, start a new run (--set output_dir=DIR), or accept the change: {options}.",
        )
    return changes


def _changes(before: Fingerprints, now: Fingerprints, pairs: PreparedData) -> Iterator[InputChange]:
    encoding = [
        kind for kind in (Input.TOKENIZER, Input.CHAT_TEMPLATE) if before.get(kind) and before[kind] != now[kind]
    ]
    for kind in encoding:
        yield InputChange(kind, f"{kind}: digest {before[kind]} → {now[kind]}")
    yield from _data_changes(before.get("data") or {}, now["data"], pairs, other_ids=bool(encoding))
    old, new = before.get("weights") or {}, now.get("weights") or {}
    for name in sorted(old.keys() | new.keys()) if old and new else ():
        if old.get(name) != new.get(name):
            values = f"digest {old.get(name, 'none')} → {new.get(name, 'none')}"
            yield InputChange(Input.WEIGHTS, f"weights: {name}: {values}")


def _data_changes(
    before: Fingerprints, now: Fingerprints, pairs: PreparedData, *, other_ids: bool
) -> Iterator[InputChange]:
    """Changes of the pairs; ``other_ids``: the same text has other token ids, so the content of the sources is compared."""
    if other_ids:
        old, new = (before.get("sources") or {}).items(), now["sources"].items()
        for (name, digest), (new_name, new_digest) in zip_longest(
            old, new, fillvalue=("", None)
        ):  # they may have moved
            if digest != new_digest:
                yield InputChange(Input.DATA, f"data: {new_name or name}: digest {digest} → {new_digest}")
        return
    for part in ("train", "eval"):
        old, new = before.get(part), now.get(part)
        if old is None or (new is not None and old["digest"] == new["digest"]):
            continue
        if None in now["sources"].values() and new is not None and _continues(old, pairs.digests(part)):
            continue  # a longer run reads more pairs of a stream
        found = f"{old['pairs']:,} → {new['pairs'] if new else 0:,} {part} pairs"
        yield InputChange(Input.DATA, f"data: {found}; {_first_difference(old, part, pairs)}")


def _first_difference(old: Fingerprints, part: str, pairs: PreparedData) -> str:
    """Where the pairs of a part differ first, with the name of the row that is there now."""
    size = old.get("pairs_per_block")
    if not size:
        return "their token ids or their order differ"
    digests = pairs.digests(part) if part in pairs.tables else np.array([])
    blocks = zip(_split(old.get("blocks", "")), _split(_blocks(digests[: old["pairs"]], size)), strict=False)
    same = [one == two for one, two in blocks]
    position = (same.index(False) if False in same else len(same)) * size
    if position >= len(digests):
        return f"the first {len(digests):,} are the same"
    if position >= old["pairs"]:
        return f"the first {old['pairs']:,} are the same, and {_row_name(pairs, part, position)} is new"
    where = f"pair {position + 1:,}" if size == 1 else f"one of the pairs {position + 1:,} to {position + size:,}"
    return f"the first difference is {where}, now {_row_name(pairs, part, position)}"


def _part_fingerprint(pairs: PreparedData, part: str) -> Fingerprints:
    digests = pairs.digests(part)
    size = -(-len(digests) // MAX_BLOCKS) or 1
    return {
        "pairs": len(digests),
        "digest": pairs.report.fingerprints[part],
        "pairs_per_block": size,
        "blocks": _blocks(digests, size),
    }


def _continues(old: Fingerprints, digests: Any) -> bool:
    """Whether the pairs start with those of the run."""
    size = old.get("pairs_per_block") or 0
    return size > 0 and len(digests) > old["pairs"] and _blocks(digests[: old["pairs"]], size) == old.get("blocks")


def _blocks(digests: Any, size: int) -> str:
    """A short digest of each ``size`` pairs, one after the other."""
    blocks = (digests[at : at + size].tobytes() for at in range(0, len(digests), size))
    return "".join(hashlib.sha256(block).hexdigest()[:BLOCK_DIGITS] for block in blocks)


def _split(blocks: str) -> list[str]:
    return [blocks[at : at + BLOCK_DIGITS] for at in range(0, len(blocks), BLOCK_DIGITS)]


def _row_name(pairs: PreparedData, part: str, position: int) -> str:
    dataset = pairs.train if part == "train" else pairs.eval
    return str(dataset[position]["row"]) if dataset is not None else "none"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
