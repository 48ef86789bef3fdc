"""``orpo merge``: an adapter into its base, written to disk, read back, and compared before it is called done.

Weights are merged in float32 where the memory allows it, and rounded once, when they are stored. A base that was
quantized in training is loaded quantized, as it was, and dequantized: the adapter was trained to fit those weights, and
merged into the original ones it says something else. Nothing is ever merged into quantized weights.
"""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.artifacts.adapted import attach, dequantized, refuse_what_merges_wrong
from orpo_cli.artifacts.end_tokens import end_token_ids
from orpo_cli.artifacts.logit_check import PROMPTS, Difference, Tolerance, compare, logits_of, tokenized
from orpo_cli.artifacts.merge_record import NAME, MergeRecord, adapter_digests
from orpo_cli.artifacts.merge_target import MergeTarget, resolve_target
from orpo_cli.artifacts.partial import appearing_whole
from orpo_cli.errors import MachineError, RunError, UsageError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Note = Callable[[str], None]

# How far logits may be from those of the adapter on its base. Measured on SmolLM2-135M (30 layers, logits up to 42):
# float32 1.4e-4 absolute, 5e-6 relative; stored in bfloat16 0.013 relative, in float16 0.002, same top token at 99.7 % of
# positions or more. The largest absolute limit of float32 is for logits of ordinary size, the relative one for larger.
TOLERANCES = {
    "float32": Tolerance(max_absolute=1e-3, relative=2e-5),
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
    overrides the adapter's own idea of its base. Raises UsageError for what cannot be merged, MachineError where disk or
    memory is short, RunError where the result is not what it should be; then nothing is left behind.
    """
    started = time.monotonic()
    resolved = resolve_target(target, output, base=base, dtype=dtype, max_shard_size=max_shard_size)
    record = _planned_record(resolved)
    existing = _existing(resolved.output, record, overwrite)
    if existing is not None:
        return MergeResult(resolved.output, True, existing, time.monotonic() - started)
    computed_in = _check_room(resolved, note)
    with appearing_whole(resolved.output) as folder:
        record = _merge_into(folder, resolved, replace(record, computed_in=computed_in), note)
    return MergeResult(resolved.output, False, record, time.monotonic() - started)


def _planned_record(target: MergeTarget) -> MergeRecord:
    """What merge.json will say about the origin."""
    from importlib.metadata import version

    packages = ("orpo-cli", "torch", "transformers", "peft", "bitsandbytes", "safetensors")
    return MergeRecord(
        verified=False,
        adapter=str(target.adapter),
        adapter_sha256=adapter_digests(target.adapter),
        base=target.section.model_name_or_path,
        base_revision=target.section.model_revision,
        quantization=target.quantization.model_dump() if target.quantization else None,
        dtype=target.dtype,
        computed_in="float32",
        max_logit_difference=float("nan"),
        checks={},
        prompts=[],
        eos_token_ids=[],
        files={},
        versions={name: version(name) for name in packages},
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
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


def _check_room(target: MergeTarget, note: Note) -> str:
    """The type to compute in: float32, or the merged type where only that fits the memory.

    Raises MachineError where the disk or the memory cannot hold the merged model.
    """
    import psutil  # a dependency of accelerate
    import torch
    from transformers import AutoModelForCausalLM

    from orpo_cli.model.base import load_config

    config = load_config(target.section)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=target.section.trust_remote_code)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    on_disk = parameters * getattr(torch, target.dtype).itemsize + 64 * 2**20  # and the tokenizer
    folder = next(each for each in target.output.absolute().parents if each.exists())
    free = shutil.disk_usage(folder).free
    if free < on_disk:
        raise MachineError(
            f"{folder}: the merged model needs {on_disk / 1e9:.2f} GB of disk, {free / 1e9:.2f} GB are free.",
            remedy="Free some space, or choose another disk with -o.",
        )
    available = psutil.virtual_memory().available
    for dtype in ("float32", target.dtype):
        needed = parameters * getattr(torch, dtype).itemsize * 1.1
        if needed <= available:
            if dtype != "float32":
                note(f"the memory does not hold the model in float32: merging and comparing in {dtype}")
            return dtype
    raise MachineError(
        f"merging needs {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are available.",
        remedy="Merge on a machine with more memory.",
    )


def _merge_into(folder: Path, target: MergeTarget, record: MergeRecord, note: Note) -> MergeRecord:
    """Merge, save into ``folder``, read back, compare. Returns the full record, written to merge.json too."""
    import torch

    tokenizer = _tokenizer(target)
    prompts = tokenized(tokenizer, PROMPTS)
    note(f"loading {target.section.model_name_or_path}")
    model, trained = _base(target, prompts, record.computed_in)
    tuned = attach(model, target.adapter)
    refuse_what_merges_wrong(tuned)
    reference = logits_of(tuned, prompts)
    checks = {}
    if trained is not None:
        checks["dequantized"] = _checked("the dequantized base", compare(trained, reference), _trained_in(target))
    note(f"merging {target.adapter} in {record.computed_in}")
    try:
        model = tuned.merge_and_unload(safe_merge=True)
    except ValueError as error:  # PEFT's words for weights that are not finite
        raise RunError(f"{target.adapter}: {error}", remedy="The adapter is broken: train again.") from error
    checks["merged"] = _checked("the merged model", compare(reference, logits_of(model, prompts)), record.computed_in)

    ends = end_token_ids(model, tokenizer)
    _prepare_to_save(model, tokenizer, ends)
    _save(model.to(getattr(torch, target.dtype)), tokenizer, folder, target.max_shard_size)
    del model, tuned
    gc.collect()

    note("reading it back and comparing logits")
    stored = compare(reference, logits_of(_read_back(folder, target, ends, record.computed_in), prompts))
    checks["stored"] = _checked("the stored model", stored, target.dtype)
    record = replace(
        record,
        verified=True,
        max_logit_difference=stored.max_absolute,
        checks={name: difference.as_dict() for name, difference in checks.items()},
        prompts=list(PROMPTS),
        eos_token_ids=ends,
        files={
            str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()
        },
    )
    record.write(folder)
    return record


def _base(target: MergeTarget, prompts: list[Tensor], dtype: str) -> tuple[PreTrainedModel, list[Tensor] | None]:
    """The base in ``dtype`` on the CPU; and where it was quantized, the trained model's logits (else None).

    It is loaded in the type that it was trained on and widened after: training never saw what that type rounds away.
    """
    import torch

    from orpo_cli.model.base import load_base

    cuda = target.quantization is not None and target.device == "cuda" and torch.cuda.is_available()
    attention = target.section.attn_implementation
    update = {} if cuda or attention in ("sdpa", "eager") else {"attn_implementation": "eager"}  # the others need a GPU
    model = load_base(target.section.model_copy(update=update), target.quantization, "cuda" if cuda else "cpu")
    trained = None
    if getattr(model, "hf_quantizer", None) is not None:
        tuned = attach(model, target.adapter)
        trained = logits_of(tuned, prompts)
        model = dequantized(tuned.unload(), target.section.model_name_or_path, dtype)
    return model.to(device="cpu", dtype=getattr(torch, dtype)), trained


def _trained_in(target: MergeTarget) -> str:
    """The coarsest type that the quantized model computed in: its own logits are no more exact than that."""
    types = {target.section.dtype}
    if target.quantization is not None and target.quantization.load_in_4bit:
        types.add(target.quantization.bnb_4bit_compute_dtype)
    return next(dtype for dtype in ("bfloat16", "float16", "float32") if dtype in types)


def _tokenizer(target: MergeTarget) -> PreTrainedTokenizerBase:
    """The tokenizer that was saved with the adapter, else the base's."""
    from transformers import AutoTokenizer

    from orpo_cli.model.loading import explained
    from orpo_cli.model.tokenizer import load_tokenizer

    if not (target.adapter / "tokenizer_config.json").is_file():
        return load_tokenizer(target.section)
    with explained(str(target.adapter)):
        return AutoTokenizer.from_pretrained(target.adapter, trust_remote_code=target.section.trust_remote_code)


def _checked(what: str, difference: Difference, dtype: str) -> Difference:
    tolerance = TOLERANCES[dtype]
    if not tolerance.holds(difference):
        raise RunError(
            f"{what} differs from the adapter on its base by {difference.max_absolute:.2g} in the logits (relative "
            f"{difference.relative:.2g}, same top token {difference.same_argmax:.0%}); allowed is {tolerance.text()}.",
            remedy="Nothing was kept. Merge with --dtype float32; if it stays so, please report it.",
        )
    return difference


def _prepare_to_save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ends: list[int]) -> None:
    """Give the generation config every end token, and what else it needs to be valid."""
    settings = model.generation_config
    if settings is None:
        return
    if ends:
        settings.eos_token_id = ends if len(ends) > 1 else ends[0]
    if settings.pad_token_id is None:
        settings.pad_token_id = tokenizer.pad_token_id
    try:
        settings.validate(strict=True)
    except ValueError:
        settings.do_sample = True  # many a base has a temperature without it, which transformers reads but won't write


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, max_shard_size: str) -> None:
    from safetensors import SafetensorError

    try:
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        tokenizer.save_pretrained(folder)
    except (OSError, SafetensorError) as error:
        raise MachineError(
            f"cannot write the merged model to {folder.parent}: {getattr(error, 'strerror', None) or error}",
            remedy="Free some space, or choose another disk with -o.",
        ) from error
    for path in folder.glob("*.safetensors"):  # safetensors makes them readable for their owner alone
        path.chmod((folder / "config.json").stat().st_mode)


def _read_back(folder: Path, target: MergeTarget, ends: list[int], dtype: str) -> PreTrainedModel:
    """The stored model in ``dtype``. Raises RunError where something in its folder is not as it should be."""
    from orpo_cli.model.base import load_base

    section = target.section.model_copy(
        update={
            "model_name_or_path": str(folder),
            "model_revision": "main",
            "dtype": dtype,
            "attn_implementation": "eager" if target.section.attn_implementation != "sdpa" else "sdpa",
        }
    )
    model = load_base(section, None, "cpu")
    problems = []
    if getattr(model.config, "quantization_config", None) is not None:
        problems.append("config.json still speaks of quantization")
    found = model.generation_config.eos_token_id if model.generation_config is not None else None
    if ends and set(found if isinstance(found, list) else [found]) != set(ends):
        problems.append(f"generation_config.json has the end tokens {found}, not {ends}")
    if not any(folder.glob("*.safetensors")):
        problems.append("no safetensors file was written")
    if problems:
        raise RunError(
            f"the merged model is not whole: {'; '.join(problems)}.", remedy="Nothing was kept; please report it."
        )
    return model
