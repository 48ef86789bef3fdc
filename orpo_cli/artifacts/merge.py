"""``orpo merge``: an adapter into its base, written to disk, read back, and compared before it is called done.

Weights are merged in float32 where the memory allows it, and rounded once, when they are stored. A base that was
quantized in training is loaded quantized, as it was, and dequantized: the adapter was trained to fit those weights, and
merged into the original ones it says something else. Nothing is ever merged into quantized weights.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.artifacts.adapted import attach, dequantized, is_exact, refuse_what_merges_wrong, widen
from orpo_cli.artifacts.logit_check import Difference, Tolerance, compare, logits_of
from orpo_cli.artifacts.merge_record import NAME, MergeRecord, adapter_digests
from orpo_cli.artifacts.merge_target import MergeTarget, resolve_target
from orpo_cli.artifacts.real_prompts import built_in_prompts, run_prompts
from orpo_cli.artifacts.room import check_disk, type_that_fits
from orpo_cli.artifacts.stored import read_back
from orpo_cli.data.end_tokens import end_token_ids
from orpo_cli.errors import RunError, UsageError
from orpo_cli.model.facts import model_facts
from orpo_cli.model.store import store
from orpo_cli.recipe.schema import ModelSection
from orpo_cli.whole import appearing_whole

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Note = Callable[[str], None]

# How far logits may be from those of the adapter on its base. Measured on SmolLM2-135M (30 layers, logits up to 42):
# computed in float32 1.4e-4 absolute, 5e-6 relative (the absolute limit is for logits of that size, the relative one for
# larger); computed in bfloat16, where only that fits the memory, 0.06 relative, same top token at 99 % of positions.
COMPUTED = {
    "float32": Tolerance(max_absolute=1e-3, relative=2e-5, same_argmax=0.99),
    "float16": Tolerance(relative=0.05, same_argmax=0.90),
    "bfloat16": Tolerance(relative=0.20, same_argmax=0.90),
}
# The same for the stored model, computed in float32: what rounding the weights does. Measured: float16 0.002 relative,
# bfloat16 0.010 to 0.018, same top token at 97 % or more.
STORED = {
    "float32": COMPUTED["float32"],
    "float16": Tolerance(relative=0.01, same_argmax=0.95),
    "bfloat16": Tolerance(relative=0.05, same_argmax=0.90),
}


@dataclass(frozen=True)
class MergeResult:
    """A merged model. ``already`` says that it was there, made from the same adapter and verified."""

    output: Path
    already: bool
    record: MergeRecord
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values, for ``--json``."""
        return {
            "status": "unchanged" if self.already else "merged",
            "output": str(self.output),
            "verified": self.record.verified,
            "dtype": self.record.dtype,
            "base": self.record.base,
            "max_logit_difference": self.record.max_logit_difference,
            "checks": self.record.checks,
            "size": sum(self.record.files.values()),
            "seconds": round(self.seconds, 1),
        }


def merge(
    target: Path,
    output: Path | None = None,
    *,
    base: str | None = None,
    dtype: str | None = None,
    max_shard_size: str | None = None,
    overwrite: bool = False,
    note: Note = lambda text: None,
) -> MergeResult:
    """Merge the adapter of a run, of a checkpoint, or in a folder of its own into its base, and verify the result.

    ``output`` is by default the run's ``merged`` folder; ``dtype`` the plan's (float32, bfloat16 or float16). ``base``
    overrides the adapter's own idea of its base. Raises UsageError for what cannot be merged, MachineError where disk
    or memory is short, RunError where the result is not what it should be; then nothing is left behind.
    """
    started = time.monotonic()
    resolved = resolve_target(target, output, base=base, dtype=dtype, max_shard_size=max_shard_size)
    record = _planned_record(resolved)
    existing = _existing(resolved.output, record, overwrite)
    if existing is not None:
        return MergeResult(resolved.output, True, existing, time.monotonic() - started)
    parameters = model_facts(resolved.section).parameters
    check_disk(resolved.output, parameters, resolved.dtype)
    computed_in = type_that_fits(parameters, resolved.dtype, note)
    with appearing_whole(resolved.output) as folder:
        record = _merge_into(folder, resolved, replace(record, computed_in=computed_in), note)
    return MergeResult(resolved.output, False, record, time.monotonic() - started)


def _planned_record(target: MergeTarget) -> MergeRecord:
    """What merge.json will say about the origin."""
    from importlib.metadata import version

    packages = ("orpo-cli", "torch", "transformers", "peft", "bitsandbytes", "safetensors")
    return MergeRecord(
        verified=False,
        adapter=target.adapter.absolute().name,
        adapter_sha256=adapter_digests(target.adapter),
        base=target.section.model_name_or_path,
        base_revision=target.section.model_revision,
        quantization=target.quantization.model_dump() if target.quantization else None,
        dtype=target.dtype,
        computed_in="float32",
        max_logit_difference=float("nan"),
        checks={},
        prompts={},
        eos_token_ids=[],
        files={},
        versions={name: version(name) for name in packages},
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )


def _existing(output: Path, planned: MergeRecord, overwrite: bool) -> MergeRecord | None:
    """The record of an output that already is what is asked for. Raises UsageError where it is something else."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    record = MergeRecord.read(output) if output.is_dir() else None
    if record is None:
        raise UsageError(
            f"{output} exists and is no merged model: it holds no {NAME}.", remedy="Choose another -o, or remove it."
        )
    if overwrite:
        return None
    if record.verified and record.same_origin(planned) and record.is_whole(output):
        return record
    raise UsageError(
        f"{output} holds another merge (dtype {record.dtype}, {record.created}).",
        remedy="Say --overwrite, or choose another -o.",
    )


def _merge_into(folder: Path, target: MergeTarget, record: MergeRecord, note: Note) -> MergeRecord:
    """Merge, save into ``folder``, read back, compare. Returns the full record, written to merge.json too."""
    import torch

    tokenizer = _tokenizer(target)
    computed, exact = COMPUTED[record.computed_in], record.computed_in == "float32"
    general = built_in_prompts(tokenizer)
    own = run_prompts(target.rundir.read_plan(), tokenizer) if target.rundir else []
    prompts = general + own
    note(f"loading {target.section.model_name_or_path}")
    model, trained = _base(target, tokenizer, prompts, record.computed_in)
    tuned = attach(model, target.adapter)
    refuse_what_merges_wrong(tuned)
    reference = logits_of(tuned, prompts)
    checks = {}
    if trained is not None:
        checks["dequantized"] = _checked("the dequantized base", compare(trained, reference), computed)
    note(f"merging {target.adapter} in {record.computed_in}")
    try:
        model = tuned.merge_and_unload(safe_merge=True)
    except ValueError as error:  # PEFT's words for weights that are not finite
        raise RunError(f"{target.adapter}: {error}", remedy="The adapter is broken: train again.") from error
    checks["merged"] = _checked("the merged model", compare(reference, logits_of(model, prompts)), computed)

    ends = end_token_ids(model, tokenizer)
    store(model.to(getattr(torch, target.dtype)), tokenizer, ends, folder, target.max_shard_size)
    del model, tuned
    gc.collect()

    note("reading it back and comparing logits")
    model = read_back(folder, ends, like=_on_cpu(target.section), dtype=record.computed_in)
    stored = compare(reference, logits_of(model, prompts))
    checks["stored"] = _checked("the stored model", stored, STORED[target.dtype] if exact else computed)
    record = replace(
        record,
        verified=True,
        max_logit_difference=stored.max_absolute,
        checks={name: difference.as_dict() for name, difference in checks.items()},
        prompts={"built_in": len(general), "from_run": len(own)},
        eos_token_ids=ends,
        files={
            str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()
        },
    )
    record.write(folder)
    return record


def _base(
    target: MergeTarget, tokenizer: PreTrainedTokenizerBase, prompts: list[Tensor], dtype: str
) -> tuple[PreTrainedModel, list[Tensor] | None]:
    """The base in ``dtype`` on the CPU; and where it was quantized, the logits of the adapter on it as quantized.

    It is loaded in the type that it was trained on and widened after: training never saw what that type rounds away.
    """
    import torch

    from orpo_cli.model.base import load_base
    from orpo_cli.model.vocabulary import grow

    cuda = target.quantization is not None and target.device == "cuda" and torch.cuda.is_available()
    section = target.section if cuda else _on_cpu(target.section)
    model = load_base(section, target.quantization, "cuda" if cuda else "cpu")
    grow(model, tokenizer)
    trained = None
    if getattr(model, "hf_quantizer", None) is not None:
        tuned = attach(model, target.adapter)
        widen(tuned, dtype)
        trained = logits_of(tuned, prompts) if is_exact(model) else None
        model = dequantized(tuned.unload(), target.section.model_name_or_path, dtype)
    return model.to(device="cpu", dtype=getattr(torch, dtype)), trained


def _on_cpu(section: ModelSection) -> ModelSection:
    """``section`` with an attention kernel that the CPU has."""
    if section.attn_implementation in ("sdpa", "eager"):
        return section
    return section.model_copy(update={"attn_implementation": "eager"})


def _tokenizer(target: MergeTarget) -> PreTrainedTokenizerBase:
    """The tokenizer that was saved with the adapter, else the base's."""
    from orpo_cli.model.tokenizer import load_tokenizer, saved_tokenizer

    if not (target.adapter / "tokenizer_config.json").is_file():
        return load_tokenizer(target.section)
    return saved_tokenizer(target.adapter, trust_remote_code=target.section.trust_remote_code)


def _checked(what: str, difference: Difference, tolerance: Tolerance) -> Difference:
    if not tolerance.holds(difference):
        raise RunError(
            f"{what} differs from the adapter on its base by {difference.max_absolute:.2g} in the logits (relative "
            f"{difference.relative:.2g}, same top token {difference.same_argmax:.0%}); allowed is {tolerance.text()}.",
            remedy="Nothing was kept. Merge with --dtype float32; if it stays so, please report it.",
        )
    return difference
