"""Verification of a merged folder: tensors read back, then whole models compared; a failed one is repeated once.

Both models are loaded and computed anew in the repetition, so that an error of one computation does not condemn a good merge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.errors import RunError
from orpo_cli.merge.comparison import Questions, check_whole
from orpo_cli.merge.memory_limit import memory_allowed, type_within
from orpo_cli.merge.merge_record import MergeRecord
from orpo_cli.merge.merge_target import MergeTarget
from orpo_cli.merge.sharded_merge import read_back_digests
from orpo_cli.merge.write_model import Written
from orpo_cli.verify.held_out_metrics import held_out_judge
from orpo_cli.verify.prompts import built_in_prompts, run_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Verification:
    """Everything that a verification needs. ``memory``: bytes the process may hold, where the user said so."""

    folder: Path
    target: MergeTarget
    written: Written
    tokenizer: PreTrainedTokenizerBase
    memory: int | None
    held_out_pairs: int
    note: Callable[[str], None]


def verified(record: MergeRecord, verification: Verification) -> MergeRecord:
    """The record with the verdict. Where ``verified`` is false, ``problem`` says why."""
    first = _verified_once(record, verification)
    if first.verified:
        return first
    verification.note(f"{first.problem} The verification is repeated, both models computed anew.")
    second = _verified_once(record, verification)
    return replace(second, first_verification={"problem": first.problem, "checks": first.checks})


def _verified_once(record: MergeRecord, verification: Verification) -> MergeRecord:
    try:
        if verification.written.digests:
            verification.note("reading it back, tensor by tensor")
            read_back_digests(verification.folder, verification.written.digests)
        return _compared(replace(record, verified=True, verification="tensors"), verification)
    except RunError as error:
        return replace(record, verified=False, problem=" ".join(filter(None, (error.message, error.remedy))))


def _compared(record: MergeRecord, verification: Verification) -> MergeRecord:
    """The record with what comparing whole models found, where they fit into the memory; every tensor was compared before."""
    target, written, tokenizer, note = (
        verification.target, verification.written, verification.tokenizer, verification.note,
    )  # fmt: skip
    general = built_in_prompts(tokenizer)
    own = run_prompts(target.rundir.read_plan(), tokenizer) if target.rundir else []
    prompts = general + own
    allowed = memory_allowed(written.largest_file, verification.memory)
    logits = 3 * 4 * sum(each.numel() for each in prompts) * written.vocabulary  # two models', and a difference
    computed_in = type_within(written.parameters, logits, target.dtype, allowed)
    if computed_in is None:
        note(
            f"the model does not fit into the {allowed / 1e9:.1f} GB of memory that a merge of it takes: every tensor was "
            "verified, logits, answers and held-out pairs are not compared. `--memory` allows more."
        )
        return record
    if computed_in != "float32":
        note(f"the memory does not hold the model in float32: logits are compared in {computed_in}.")
    judge = held_out_judge(target.rundir, tokenizer, verification.held_out_pairs, note)
    questions = Questions(tokenizer, prompts, written.ends, judge)
    verdict = check_whole(verification.folder, target, written.rows, computed_in, questions, note)
    trained = verdict.difference_to_trained
    return replace(
        record,
        verified=verdict.problem is None,
        problem=verdict.problem,
        verification="logits",
        computed_in=computed_in,
        max_logit_difference=verdict.stored.max_absolute,
        checks={"stored": verdict.stored.as_dict()},
        difference_to_trained=trained.as_dict() if trained else None,
        prompts={"built_in": len(general), "from_run": len(own)},
        generation=verdict.generation,
        held_out=verdict.held_out or None,
    )
