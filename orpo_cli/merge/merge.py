"""``orpo merge``: adapters into their base, written to disk, read back, and compared before it is called done.

Weights are merged one by one in float32, with PEFT's arithmetic, and rounded once, when they are stored. A base that was
quantized in training is taken through bitsandbytes and back: the adapter was trained to fit those weights, and merged into
the original ones it says something else. Nothing is ever merged into quantized weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli import __version__
from orpo_cli.atomic import atomic_directory, keep_as_unverified
from orpo_cli.errors import RunError, UsageError
from orpo_cli.merge.memory_limit import parsed_size
from orpo_cli.merge.merge_record import FILE_NAME, MergeRecord, adapter_digests
from orpo_cli.merge.merge_target import MergeTarget, resolve_target
from orpo_cli.merge.peft_adapters import check_mergeable
from orpo_cli.merge.verification import VerificationInputs, verify_merge
from orpo_cli.merge.write_model import write_merged_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Note = Callable[[str], None]

DEFAULT_HELD_OUT_PAIRS = 32  # enough to see a merge that went wrong; `orpo eval` has the whole answer


@dataclass(frozen=True)
class MergeResult:
    """A merged model. ``already`` says that it was there, made from the same adapter and verified."""

    output: Path
    already_merged: bool
    record: MergeRecord
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values, for ``--json``."""
        record = self.record
        return {
            "status": "unchanged" if self.already_merged else "merged",
            "output": str(self.output),
            "verified": record.verified,
            "verification": record.verification,
            "first_verification": record.first_verification,
            "dtype": record.dtype,
            "base": record.base,
            "into": record.into,
            "way": record.way,
            "max_logit_difference": record.max_logit_difference,
            "difference_to_trained": record.difference_to_trained,
            "checks": record.checks,
            "tensors": record.tensors,
            "untied": record.untied,
            "generation": record.generation,
            "held_out": record.held_out,
            "size": sum(record.files.values()),
            "seconds": round(self.seconds, 1),
            "seconds_of": record.seconds,
        }

    def summary_lines(self) -> list[str]:
        """What was found, in words."""
        record = self.record
        if record.max_logit_difference is None:
            found = f"{record.tensors.get('written', 0):.0f} tensors read back and equal; logits not compared"
        else:
            found = f"logits within {record.max_logit_difference:.2g} of the adapter on its base"
        if self.already_merged:
            return [f"already merged and verified: {found}"]
        lines = [f"merged in {self.seconds:.0f} s and verified: {found}"]
        trained = record.difference_to_trained
        if trained is not None:
            lines.append(
                f"against the trained model, whose base was quantized: logits within {trained['max_absolute']:.2g}, relative "
                f"{trained['relative']:.2g}, same top token at {trained['same_argmax']:.0%} of positions"
            )
        if record.held_out is not None:
            merged, unmerged = record.held_out["merged"], record.held_out["unmerged"]
            lines.append(
                f"{merged['pairs']} held-out pairs: loss {merged['loss']:.4f}, unmerged {unmerged['loss']:.4f}; "
                f"accuracy {merged['accuracy']:.3f}, unmerged {unmerged['accuracy']:.3f}"
            )
        answers = record.generation
        if answers is not None and answers["stopped"] < answers["prompts"]:
            lines.append(
                f"{answers['prompts'] - answers['stopped']} of {answers['prompts']} short answers did not end within "
                f"{answers['max_new_tokens']} tokens; of the unmerged model, "
                f"{answers['prompts'] - answers['unmerged_stopped']} did not"
            )
        return lines

    def fewer_answers_end(self) -> bool:
        """Whether fewer short answers ended by themselves than of the unmerged model."""
        found = self.record.generation
        return found is not None and found["stopped"] < found["unmerged_stopped"]


def merge(
    target: Path,
    output: Path | None = None,
    *,
    base: str | None = None,
    dtype: str | None = None,
    max_shard_size: str | None = None,
    into: str | None = None,
    others: Sequence[Path] = (),
    weights: Sequence[float] = (),
    memory: str | None = None,
    held_out_pairs: int = DEFAULT_HELD_OUT_PAIRS,
    overwrite: bool = False,
    note: Note = lambda text: None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> MergeResult:
    """Merge the adapter of a run, of a checkpoint, or in a folder of its own into its base, and verify the result.

    ``output`` is by default the run's ``merged`` folder; ``dtype`` the plan's (float32, bfloat16 or float16). ``base``
    overrides the adapter's own idea of its base. ``others`` are further adapters of the same base, ``weights`` what the
    update of each is multiplied by. ``into``: a quantized base as it was trained, or the original. ``memory``: what the
    process may hold, by default one and a half times the base's largest file and 1 GB. ``progress`` hears of tensors.

    Raises UsageError for what cannot be merged, MachineError where disk or memory is short, RunError where the result is
    not what it should be: one that failed its verification twice is kept beside ``output``, else nothing is left behind.
    """
    started = time.monotonic()
    asked = None if memory is None else parsed_size(memory, "--memory")
    resolved = resolve_target(
        target, output, base=base, dtype=dtype, max_shard_size=max_shard_size, into=into, others=others, weights=weights
    )
    parsed_size(resolved.max_shard_size, "--max-shard-size")
    record = _new_record(resolved)
    existing = _existing_merge(resolved.output, record, overwrite)
    if existing is not None:
        return MergeResult(resolved.output, True, existing, time.monotonic() - started)
    check_mergeable(resolved.adapters, quantized=resolved.quantization is not None)
    tokenizer = _load_tokenizer(resolved)
    with atomic_directory(resolved.output) as folder:
        began = time.monotonic()
        written = write_merged_model(folder, resolved, tokenizer, note, progress, asked)
        record = replace(
            record,
            way=written.method,
            tensors=written.tensors,
            untied=sorted(written.untied),
            eos_token_ids=written.eos_token_ids,
            seconds={"merge": round(time.monotonic() - began, 2)},
        )
        began = time.monotonic()
        verification = VerificationInputs(folder, resolved, written, tokenizer, asked, held_out_pairs, note)
        record = verify_merge(record, verification)
        record.seconds["verification"] = round(time.monotonic() - began, 2)
        files = {
            str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()
        }
        record = replace(record, files=files)
        if not record.verified:
            raise _keep_unverified(record, folder, resolved.output)
        record.write(folder)
    return MergeResult(resolved.output, False, record, time.monotonic() - started)


def _keep_unverified(record: MergeRecord, folder: Path, output: Path) -> RunError:
    """The error of a merge that failed its verification, which is kept beside ``output`` with the verdict in merge.json."""
    record.write(folder)
    kept = keep_as_unverified(folder, output)
    return RunError(
        f"the merge failed its verification twice: {record.problem}",
        remedy=f"It is kept in {kept}, with the verdict in {FILE_NAME}; nothing uses it. Merge again; where it stays so, try "
        "--dtype float32, and please report it. Remove the folder when you are done.",
    )


def _new_record(target: MergeTarget) -> MergeRecord:
    """What merge.json will say about the origin."""
    from importlib.metadata import version

    packages = ("torch", "transformers", "peft", "bitsandbytes", "safetensors")
    digests = [adapter_digests(each.folder) for each in target.adapters]
    several = len(digests) > 1 or target.adapters[0].weight != 1
    return MergeRecord(
        verified=False,
        adapter=target.adapter.absolute().name,
        adapter_sha256=digests[0],
        base=target.section.model_name_or_path,
        base_revision=target.section.model_revision,
        quantization=target.quantization.model_dump() if target.quantization else None,
        dtype=target.dtype,
        computed_in="float32",
        max_logit_difference=None,
        checks={},
        prompts={},
        eos_token_ids=[],
        files={},
        versions={"orpo-cli": __version__, **{name: version(name) for name in packages}},
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        into=target.into,
        adapters=[
            {"adapter": each.folder.absolute().name, "weight": each.weight, "sha256": digest}
            for each, digest in zip(target.adapters, digests, strict=True)
        ]
        if several
        else [],
    )


def _existing_merge(output: Path, planned: MergeRecord, overwrite: bool) -> MergeRecord | None:
    """The record of an output that already is what is asked for. Raises UsageError where it is something else."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    record = MergeRecord.read(output) if output.is_dir() else None
    if record is None:
        raise UsageError(
            f"{output} exists and is no merged model: it holds no {FILE_NAME}.",
            remedy="Choose another -o, or remove it.",
        )
    if overwrite:
        return None
    if record.verified and record.same_origin(planned) and record.is_complete(output):
        return record
    if not record.verified:
        raise UsageError(
            f"{output} holds a merge that failed its verification ({record.created}).",
            remedy="Say --overwrite, or choose another -o.",
        )
    raise UsageError(
        f"{output} holds another merge (dtype {record.dtype}, {record.created}).",
        remedy="Say --overwrite, or choose another -o.",
    )


def _load_tokenizer(target: MergeTarget) -> PreTrainedTokenizerBase:
    """The tokenizer that was saved with the adapter, else the base's."""
    from orpo_cli.model.tokenizer import load_saved_tokenizer, load_tokenizer

    if not (target.adapter / "tokenizer_config.json").is_file():
        return load_tokenizer(target.source)
    return load_saved_tokenizer(target.adapter, trust_remote_code=target.section.trust_remote_code)
