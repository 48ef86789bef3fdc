"""Verification of a merged folder: read every tensor back, then compare the model with the unmerged one.

A failed verification is repeated once. Both models are loaded and computed again, so that an error of one computation does
not reject a correct merge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.errors import RunError
from orpo_cli.merging.compare_models import ComparisonInputs, compare_models
from orpo_cli.merging.merge_record import MergeRecord
from orpo_cli.merging.merge_target import MergeTarget
from orpo_cli.merging.sharded_merge import verify_digests
from orpo_cli.merging.write_model import WrittenModel
from orpo_cli.verify.held_out_metrics import make_held_out_metrics
from orpo_cli.verify.prompts import built_in_prompts, run_prompts
from orpo_cli.verify.resources import choose_compute_dtype, compute_bytes, free_memory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from orpo_cli.evaluation.answers import BeginCount


@dataclass(frozen=True)
class VerificationInputs:
    """Inputs of a verification."""

    folder: Path
    target: MergeTarget
    written: WrittenModel
    tokenizer: PreTrainedTokenizerBase
    held_out_pairs: int
    note: Callable[[str], None]
    begin_count: BeginCount


def verify_merge(record: MergeRecord, inputs: VerificationInputs) -> MergeRecord:
    """``record`` with the result of the verification. If a check failed, ``problem`` says which."""
    first = _verify_once(record, inputs)
    if first.is_usable:
        return first
    inputs.note(f"{first.problem} The verification is repeated with both models loaded again.")
    compared = first.max_logit_difference is not None
    second = _verify_once(record, inputs, dtype=first.computed_in if compared else None)
    return replace(second, first_verification={"problem": first.problem, "checks": first.checks})


def _verify_once(record: MergeRecord, inputs: VerificationInputs, dtype: str | None = None) -> MergeRecord:
    """One verification. A repetition computes in the ``dtype`` of the first one, whatever memory is free by then."""
    try:
        if inputs.written.digests:
            inputs.note("reading back every tensor")
            verify_digests(inputs.folder, inputs.written.digests)
        verification = "tensors only" if inputs.written.digests else "none"
        return _compare_with_unmerged(replace(record, verification=verification), inputs, dtype)
    except RunError as error:
        return replace(record, problem=" ".join(filter(None, (error.message, error.remedy))))


def _compare_with_unmerged(record: MergeRecord, inputs: VerificationInputs, dtype: str | None) -> MergeRecord:
    """``record`` with the comparison of the merged model and the unmerged one; unchanged if they do not fit into memory."""
    target, written, tokenizer, note = inputs.target, inputs.written, inputs.tokenizer, inputs.note
    general = built_in_prompts(tokenizer)
    from_run = run_prompts(target.rundir.read_plan(), tokenizer) if target.rundir else []
    prompts = general + from_run
    limit = target.memory_limit
    tokens = sum(each.numel() for each in prompts)
    logit_bytes = 3 * 4 * tokens * written.vocab_size  # float32 logits of two models, and their difference
    other_bytes = logit_bytes + written.adapter_bytes
    dtype = dtype or choose_compute_dtype(written.parameters, target.dtype, limit=limit, other_bytes=other_bytes)
    if dtype is None:
        needed = compute_bytes(written.parameters, target.dtype, other_bytes)
        allowed = "are free" if limit is None else f"are left of --memory {limit / 1e9:.1f} GB"
        reason = f"this needs {needed / 1e9:.1f} GB of memory; {free_memory(limit) / 1e9:.1f} GB {allowed}"
        note(
            f"logits, answers and held-out pairs are not compared: {reason}. "
            + (
                "Merge on a machine with more memory to compare them."
                if limit is None
                else "`--memory` raises the limit."
            )
        )
        return replace(record, not_compared=reason)
    if dtype != "float32":
        note(f"the model does not fit into memory in float32: logits are compared in {dtype}.")
    metrics = make_held_out_metrics(target.rundir, tokenizer, inputs.held_out_pairs, note)
    comparison = ComparisonInputs(tokenizer, prompts, written.eos_token_ids, metrics, inputs.begin_count)
    record = replace(record, prompts={"built_in": len(general), "from_run": len(from_run)})
    return compare_models(record, inputs.folder, target, written.resized_vocab_size, dtype, comparison, note)
