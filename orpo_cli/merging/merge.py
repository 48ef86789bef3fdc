"""``orpo merge``: merge adapters into their base, write the model, read it back and compare it with the unmerged model.

Weights are merged one by one in float32 with PEFT's arithmetic and rounded once, when they are saved. If training quantized
the base, its weights are quantized and dequantized first, because the adapter was trained on those weights; merged into the
original weights it gives other outputs. Nothing is merged into quantized weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli import __version__
from orpo_cli.atomic import atomic_directory, keep_as_unverified, remove_leftovers
from orpo_cli.errors import RunError, UsageError
from orpo_cli.library_imports import import_libraries
from orpo_cli.merging.adapter_formats import standard_adapter
from orpo_cli.merging.merge_record import FILE_NAME, MergeRecord, adapter_digests
from orpo_cli.merging.merge_target import MergeRequest, MergeTarget, is_same_folder, resolve_target
from orpo_cli.merging.meta_model import build_meta_model
from orpo_cli.merging.peft_adapters import check_mergeable
from orpo_cli.merging.verification import VerificationInputs, verify_merge
from orpo_cli.merging.write_model import write_merged_model
from orpo_cli.model.file_size import parse_size
from orpo_cli.run_attempts import now
from orpo_cli.temporary_directory import temporary_directory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from orpo_cli.evaluation.answers import BeginCount, Progress

Note = Callable[[str], None]
# Fields of the record that ``--json`` shows.
_SHOWN_FIELDS = (
    "verified", "verification", "not_compared", "first_verification", "dtype", "base", "into", "way", "max_logit_difference",
    "difference_to_trained", "checks", "tensors", "untied", "generation", "held_out",
)  # fmt: skip


@dataclass(frozen=True)
class MergeResult:
    """A merged model. ``already_merged``: it existed, from the same adapter, and its checks had passed."""

    output: Path
    already_merged: bool
    record: MergeRecord
    seconds: float

    def __repr__(self) -> str:
        return f"MergeResult({str(self.output)!r}, verified={self.record.verified})"

    def as_dict(self) -> dict[str, Any]:
        """The document of ``--json``."""
        record = self.record
        return {
            "status": "unchanged" if self.already_merged else "merged",
            "output": str(self.output),
            **{name: getattr(record, name) for name in _SHOWN_FIELDS},
            "size": sum(record.files.values()),
            "seconds": round(self.seconds, 1),
            "seconds_of": record.seconds,
        }

    def summary_lines(self) -> list[str]:
        """Result and verification, one line each."""
        record = self.record
        joint = " and " if record.verified else "; "
        if self.already_merged:
            return [f"already merged{joint}{record.verdict()}"]
        lines = [f"merged in {self.seconds:.0f} s{joint}{record.verdict()}"]
        trained = record.difference_to_trained
        if trained is not None:
            lines.append(
                f"compared with the trained model and its quantized base: logits within {trained['max_absolute']:.2g}, relative "
                f"{trained['relative']:.2g}, same top token at {trained['same_argmax']:.0%} of positions"
            )
        if record.held_out is not None:
            merged, unmerged = record.held_out["merged"], record.held_out["unmerged"]
            pairs, available = merged["pairs"], merged.get("available", merged["pairs"])
            lines.append(
                f"{pairs if pairs == available else f'the first {pairs} of {available}'} held-out pairs: NLL {merged['nll_loss']:.4f}, unmerged {unmerged['nll_loss']:.4f}; "
                f"accuracy {merged['accuracy']:.3f}, unmerged {unmerged['accuracy']:.3f}"
            )
        answers = record.generation
        if answers is not None and answers["stopped"] < answers["prompts"]:
            lines.append(
                f"{answers['prompts'] - answers['stopped']} of {answers['prompts']} short answers did not end within "
                f"{answers['max_new_tokens']} tokens, "
                + (
                    "as with the unmerged model"
                    if answers["stopped"] == answers["unmerged_stopped"]
                    else f"with the unmerged model {answers['prompts'] - answers['unmerged_stopped']}"
                )
            )
        return lines

    def fewer_answers_end(self) -> bool:
        """Whether fewer short answers ended before the token limit than with the unmerged model."""
        found = self.record.generation
        return found is not None and found["stopped"] < found["unmerged_stopped"]


def merge(
    request: MergeRequest,
    *,
    note: Note = lambda text: None,
    begin_count: BeginCount | None = None,
) -> MergeResult:
    """Merge adapters into their base and verify the result. ``begin_count`` shows how many tensors and held-out pairs are done.

    Raises UsageError if the adapters cannot be merged, MachineError if disk space or memory is short, RunError if the result
    is wrong. A merge that failed its verification twice is kept next to ``output``; other failures leave no files.
    """
    started, begin_count = time.monotonic(), begin_count or _hide_count
    target = resolve_target(request)
    remove_leftovers(target.output.absolute().parent)
    parse_size(target.max_shard_size, "--max-shard-size")
    record = _new_record(target)
    existing = _existing_merge(target.output, record, request)
    if existing is not None:
        return MergeResult(target.output, True, existing, time.monotonic() - started)
    import_libraries("transformers.modeling_utils", "peft")
    with temporary_directory("merge") as scratch, atomic_directory(target.output) as folder:
        target = _readable_target(target, scratch, note)
        check_mergeable(target.adapters, quantized=target.quantization is not None)
        tokenizer = _load_tokenizer(target)
        merge_started = time.monotonic()
        written = write_merged_model(folder, target, tokenizer, note, begin_count("tensors"))
        record = replace(
            record,
            way=written.method,
            tensors=written.tensors,
            untied=sorted(written.untied),
            eos_token_ids=written.eos_token_ids,
            seconds={"merge": round(time.monotonic() - merge_started, 2)},
        )
        verification_started = time.monotonic()
        inputs = VerificationInputs(folder, target, written, tokenizer, request.held_out_pairs, note, begin_count)
        record = verify_merge(record, inputs)
        record.seconds["verification"] = round(time.monotonic() - verification_started, 2)
        files = {
            str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()
        }
        record = replace(record, files=files)
        if not record.is_usable:
            raise _keep_unverified(record, folder, target.output)
        record.write(folder)
    return MergeResult(target.output, False, record, time.monotonic() - started)


def _hide_count(_: str) -> Progress:
    return lambda done, total, detail="": None


def _readable_target(target: MergeTarget, scratch: Path, note: Note) -> MergeTarget:
    """``target`` with adapters that have PEFT's names, and a base without an adapter beside it."""
    base = Path(target.section.model_name_or_path)
    if is_same_folder(base, target.adapter):  # transformers would apply the adapter to the base
        without_adapter = scratch / "base"
        without_adapter.mkdir()
        for path in base.iterdir():
            if not path.name.startswith("adapter_"):
                (without_adapter / path.name).symlink_to(path.absolute())
        section = target.section.model_copy(update={"model_name_or_path": str(without_adapter)})
        target = replace(target, section=section)
    model = build_meta_model(target.source)
    for each in target.adapters:
        others = sorted(path.parent.name for path in each.folder.glob("*/adapter_config.json"))
        if named := [name for name in others if not name.startswith("checkpoint-")]:
            note(f"{each.folder} also contains the adapters {', '.join(named)}: not merged; `--adapter` adds them")
    adapters = tuple(
        standard_adapter(each, model, scratch / f"adapter-{number}", note)
        for number, each in enumerate(target.adapters)
    )
    return replace(target, adapters=adapters)


def _keep_unverified(record: MergeRecord, folder: Path, output: Path) -> RunError:
    """Keep a merge that failed its verification next to ``output``, with its merge.json, and return the error to raise."""
    record.write(folder)
    kept = keep_as_unverified(folder, output)
    return RunError(
        f"the merge failed its verification twice: {record.problem}",
        remedy=f"It is kept in {kept}, with the result in {FILE_NAME}; no command uses it. Merge again; if it fails again, try "
        "--dtype float32, and please report it. Remove the folder when you are done.",
    )


def _new_record(target: MergeTarget) -> MergeRecord:
    """The record of a merge before its verification: the origin of the model."""
    from importlib.metadata import version

    packages = ("torch", "transformers", "peft", "bitsandbytes", "safetensors")
    digests = [adapter_digests(each.folder) for each in target.adapters]
    several = len(digests) > 1 or target.adapters[0].weight != 1
    return MergeRecord(
        adapter=target.adapter.absolute().name,
        adapter_sha256=digests[0],
        base=target.section.model_name_or_path,
        base_revision=target.section.model_revision,
        quantization=target.quantization.model_dump() if target.quantization else None,
        dtype=target.dtype,
        versions={"orpo-cli": __version__, **{name: version(name) for name in packages}},
        created=now(),
        into=target.into,
        max_shard_size=target.max_shard_size,
        adapters=[
            {"adapter": each.folder.absolute().name, "weight": each.weight, "sha256": digest}
            for each, digest in zip(target.adapters, digests, strict=True)
        ]
        if several
        else [],
    )


def _existing_merge(output: Path, planned: MergeRecord, request: MergeRequest) -> MergeRecord | None:
    """The record of an output that already is the requested merge. Raises UsageError if it is something else."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    record = MergeRecord.read(output) if output.is_dir() else None
    if record is None:
        raise UsageError(
            f"{output} exists and is no merged model: it has no {FILE_NAME}.",
            remedy="Choose another -o, or remove it.",
        )
    if request.overwrite:
        return None
    is_same = record.same_origin(planned)
    other_shards = is_same and request.max_shard_size is not None and _has_other_shards(record, request.max_shard_size)
    if record.is_usable and is_same and record.is_complete(output) and not other_shards:
        return record
    found = f"another merge (dtype {record.dtype}, {record.created})"
    if record.adapter_sha256 != planned.adapter_sha256:
        found = f"a merge of another adapter ({record.created}), such as an earlier result of the run"
    elif other_shards:
        found = f"this merge in files of at most {record.max_shard_size}"
    if not record.is_usable:
        found = f"a merge that failed its verification ({record.created})"
    raise UsageError(f"{output} contains {found}.", remedy="Add --overwrite, or choose another -o.")


def _has_other_shards(record: MergeRecord, max_shard_size: str) -> bool:
    """Whether the weights are in files of another maximum size. Earlier versions did not record it."""
    if record.max_shard_size is None:
        return False
    recorded, requested = (
        parse_size(str(each), "--max-shard-size") for each in (record.max_shard_size, max_shard_size)
    )
    return recorded != requested


def _load_tokenizer(target: MergeTarget) -> PreTrainedTokenizerBase:
    """The tokenizer saved with the adapter, else that of the base."""
    from orpo_cli.model.tokenizer import load_saved_tokenizer, load_tokenizer

    if not (target.adapter / "tokenizer_config.json").is_file():
        return load_tokenizer(target.source)
    return load_saved_tokenizer(target.adapter, trust_remote_code=target.section.trust_remote_code)
