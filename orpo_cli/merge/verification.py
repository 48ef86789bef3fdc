"""Verification of a merged folder: tensors read back, then whole models compared; a failed one is repeated once.

Both models are loaded and computed anew in the repetition, so that an error of one computation does not condemn a good merge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.errors import RunError
from orpo_cli.merge.comparison import ComparisonInputs, compare_models
from orpo_cli.merge.memory_limit import memory_allowed, type_within
from orpo_cli.merge.merge_record import MergeRecord
from orpo_cli.merge.merge_target import MergeTarget
from orpo_cli.merge.sharded_merge import verify_digests
from orpo_cli.merge.write_model import WrittenModel
from orpo_cli.verify.held_out_metrics import make_held_out_metrics
from orpo_cli.verify.prompts import built_in_prompts, run_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class VerificationInputs:
    """Everything that a verification needs. ``memory``: bytes the process may hold, where the user said so."""

    folder: Path
    target: MergeTarget
    written: WrittenModel
    tokenizer: PreTrainedTokenizerBase
    memory: int | None
    held_out_pairs: int
    note: Callable[[str], None]


def verify_merge(record: MergeRecord, verification: VerificationInputs) -> MergeRecord:
    """The record with the verdict. Where ``verified`` is false, ``problem`` says why."""
    first = _verify_once(record, verification)
    if first.verified:
        return first
    verification.note(f"{first.problem} The verification is repeated, both models computed anew.")
    second = _verify_once(record, verification)
    return replace(second, first_verification={"problem": first.problem, "checks": first.checks})


def _verify_once(record: MergeRecord, verification: VerificationInputs) -> MergeRecord:
    try:
        if verification.written.digests:
            verification.note("reading it back, tensor by tensor")
            verify_digests(verification.folder, verification.written.digests)
        return _compare_with_unmerged(replace(record, verified=True, verification="tensors"), verification)
    except RunError as error:
        return replace(record, verified=False, problem=" ".join(filter(None, (error.message, error.remedy))))


def _compare_with_unmerged(record: MergeRecord, verification: VerificationInputs) -> MergeRecord:
    """The record with what comparing whole models found, where they fit into the memory; every tensor was compared before."""
    target, written, tokenizer, note = (
        verification.target, verification.written, verification.tokenizer, verification.note,
    )  # fmt: skip
    general = built_in_prompts(tokenizer)
    own = run_prompts(target.rundir.read_plan(), tokenizer) if target.rundir else []
    prompts = general + own
    allowed = memory_allowed(written.largest_file, verification.memory)
    logits = 3 * 4 * sum(each.numel() for each in prompts) * written.vocab_size  # two models', and a difference
    computed_in = type_within(written.parameters, logits, target.dtype, allowed)
    if computed_in is None:
        note(
            f"the model does not fit into the {allowed / 1e9:.1f} GB of memory that a merge of it takes: every tensor was "
            "verified, logits, answers and held-out pairs are not compared. `--memory` allows more."
        )
        return record
    if computed_in != "float32":
        note(f"the memory does not hold the model in float32: logits are compared in {computed_in}.")
    judge = make_held_out_metrics(target.rundir, tokenizer, verification.held_out_pairs, note)
    questions = ComparisonInputs(tokenizer, prompts, written.eos_token_ids, judge)
    verdict = compare_models(verification.folder, target, written.resized_vocab_size, computed_in, questions, note)
    trained = verdict.difference_to_trained
    return replace(
        record,
        verified=verdict.problem is None,
        problem=verdict.problem,
        verification="logits",
        computed_in=computed_in,
        max_logit_difference=verdict.difference.max_absolute,
        checks={"stored": verdict.difference.as_dict()},
        difference_to_trained=trained.as_dict() if trained else None,
        prompts={"built_in": len(general), "from_run": len(own)},
        generation=verdict.generation,
        held_out=verdict.held_out or None,
    )
