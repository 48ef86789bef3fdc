"""What `orpo merge` was pointed at: a run, a checkpoint of one, or a bare PEFT adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from orpo_cli.errors import OrpoError, UsageError
from orpo_cli.json_files import read_json_object
from orpo_cli.merge.peft_adapters import Adapter
from orpo_cli.model.model_source import ModelSource, locate
from orpo_cli.plan.plan import ModelPlan
from orpo_cli.recipe.schema import Dtype, ModelSection, QuantizationSection
from orpo_cli.rundir import RunDir

DEFAULT_SHARD_SIZE = "5GB"
Into = Literal["trained", "original"]


@dataclass(frozen=True)
class MergeTarget:
    """Adapters, their base, and where the merge goes. ``section.dtype`` is the type that the base was trained in.

    ``quantization`` is that of the training; ``into`` says whether it is what the adapters are merged into.
    """

    adapters: tuple[Adapter, ...]
    rundir: RunDir | None
    output: Path
    section: ModelPlan
    quantization: QuantizationSection | None
    device: str  # of the training
    dtype: str  # of the merged weights
    max_shard_size: str
    into: Into = "trained"

    @cached_property
    def source(self) -> ModelSource[ModelPlan]:
        """The base model, located once."""
        return ModelSource(self.section)

    @property
    def adapter(self) -> Path:
        """The folder of the first adapter."""
        return self.adapters[0].folder

    @property
    def merged_quantization(self) -> QuantizationSection | None:
        """The quantization of the weights that are merged into."""
        return self.quantization if self.into == "trained" else None


def resolve_target(
    target: Path,
    output: Path | None,
    *,
    base: str | None,
    dtype: str | None,
    max_shard_size: str | None,
    into: str | None = None,
    others: Sequence[Path] = (),
    weights: Sequence[float] = (),
) -> MergeTarget:
    """Find adapters, base and output. Reads only configurations. Raises UsageError where there is nothing to merge.

    ``weights``: of ``target`` and of each of ``others``, or none.
    """
    if dtype not in (None, "auto", *get_args(Dtype)):
        raise UsageError(f"--dtype {dtype}: not one of auto, {', '.join(get_args(Dtype))}.")
    if into not in (None, *get_args(Into)):
        raise UsageError(f"--into {into}: not one of {', '.join(get_args(Into))}.")
    if weights and len(weights) != 1 + len(others):
        raise UsageError(
            f"{len(weights)} --weight for {1 + len(others)} adapters.",
            remedy="Give one for RUN_OR_ADAPTER and one for each --adapter, in this order; or none, which is 1 for each.",
        )
    found = _resolve_one(target, output, base=base, dtype=dtype, max_shard_size=max_shard_size)
    if into is not None and found.quantization is None:
        raise UsageError(
            f"--into {into}: the base was not quantized in training, as far as {target} says; there is only one to merge into.",
            remedy="Leave --into out.",
        )
    shares = list(weights) or [1.0] * (1 + len(others))
    adapters = [Adapter(found.adapter, shares[0])]
    adapters += [
        Adapter(_resolve_other_adapter(each, found, base), share)
        for each, share in zip(others, shares[1:], strict=True)
    ]
    return replace(found, adapters=tuple(adapters), into="original" if into == "original" else "trained")


def _resolve_other_adapter(path: Path, first: MergeTarget, base: str | None) -> Path:
    """The folder of a further adapter. Raises UsageError where it was trained on another base."""
    rundir = _find_run(path) if path.is_dir() else None
    if rundir is not None:
        second = _resolve_one(path, Path(), base=None, dtype=None, max_shard_size=None)
        folder, quantization = second.adapter, second.quantization
        name: Any = second.section.model_name_or_path
    else:
        if not path.is_dir():
            raise UsageError(f"--adapter {path}: no such folder.")
        folder, name, quantization = path, _read_adapter_config(path).get("base_model_name_or_path"), first.quantization
    if base is None and name != first.section.model_name_or_path:
        raise UsageError(
            f"--adapter {path} was trained on {name}, not on {first.section.model_name_or_path}.",
            remedy="Merge adapters of one base; where both names mean the same one, give it with --base.",
        )
    if quantization != first.quantization:
        raise UsageError(
            f"--adapter {path}: its base was quantized otherwise in training.", remedy="Merge them one by one."
        )
    return folder


def _resolve_one(
    target: Path, output: Path | None, *, base: str | None, dtype: str | None, max_shard_size: str | None
) -> MergeTarget:
    if not target.is_dir():
        raise UsageError(f"{target}: no such folder.", remedy="Give a run directory, or the folder of a PEFT adapter.")
    rundir = _find_run(target)
    if rundir is None:
        return _resolve_bare_adapter(target, output, base=base, dtype=dtype, max_shard_size=max_shard_size)

    plan = rundir.read_plan()
    if plan.lora is None:
        raise UsageError(
            f"{rundir.root} trained every weight: there is nothing to merge.", remedy=f"The model is {rundir.model}."
        )
    checkpoint = target.absolute().parent == rundir.checkpoints.absolute()
    if checkpoint and output is None:
        raise UsageError(f"{target} is a checkpoint.", remedy="Say where its merge goes with -o.")
    section = plan.model.model_copy(update={"device_map": None})  # one device is enough, and the checks look there
    if base is not None:
        update = {"model_name_or_path": base, "model_revision": "main", "subfolder": ""}
        section = section.model_copy(update=update)
    wanted = dtype or plan.merge.dtype
    return MergeTarget(
        adapters=(Adapter(target if checkpoint else rundir.result()),),
        rundir=rundir,
        output=output or rundir.merged,
        section=section,
        quantization=plan.quantization,
        device=plan.device,
        dtype=section.dtype if wanted == "auto" else wanted,
        max_shard_size=max_shard_size or plan.merge.max_shard_size,
    )


def _find_run(target: Path) -> RunDir | None:
    """The run that ``target`` is, or whose result or checkpoint it is."""
    target = target.absolute()
    itself, parent, checkpoints_of = RunDir(target), RunDir(target.parent), RunDir(target.parent.parent)
    if itself.is_run():
        return itself
    if target in (parent.adapter, parent.model) and parent.is_run():
        return parent
    if target.parent == checkpoints_of.checkpoints and checkpoints_of.is_run():
        return checkpoints_of
    return None


def _resolve_bare_adapter(
    adapter: Path, output: Path | None, *, base: str | None, dtype: str | None, max_shard_size: str | None
) -> MergeTarget:
    config = _read_adapter_config(adapter)
    if output is None:
        raise UsageError(
            f"{adapter} is an adapter outside of a run.", remedy="Say where the merged model goes with -o."
        )
    name = base or config.get("base_model_name_or_path")
    if not name:
        raise UsageError(f"{adapter}/adapter_config.json names no base model.", remedy="Give it with --base.")
    try:
        locate(str(name))
    except OrpoError as error:
        if base is not None:
            raise
        raise UsageError(f"{adapter}: its base model: {error.message}", remedy="Give the base with --base.") from error
    revision = "main" if base is not None else (config.get("revision") or "main")
    written = ModelSection(model_name_or_path=str(name), model_revision=revision)
    decided: dict[str, Any] = {"dtype": _base_dtype(written), "attn_implementation": "sdpa"}
    section = ModelPlan(**{**dict(written), **decided})
    return MergeTarget(
        adapters=(Adapter(adapter),),
        rundir=None,
        output=output,
        section=section,
        quantization=None,
        device="cpu",
        dtype=section.dtype if dtype in (None, "auto") else str(dtype),
        max_shard_size=max_shard_size or DEFAULT_SHARD_SIZE,
    )


def _read_adapter_config(adapter: Path) -> dict[str, Any]:
    path = adapter / "adapter_config.json"
    if not path.is_file():
        kind = "a model, not an adapter" if (adapter / "config.json").is_file() else "neither a run nor a PEFT adapter"
        raise UsageError(
            f"{adapter} is {kind}: it holds no {path.name}.",
            remedy="Give a run directory, or the folder of an adapter.",
        )
    return read_json_object(path, remedy="Download or save the adapter again.")


def _base_dtype(section: ModelSection) -> str:
    """The type of the base's weights as its configuration says; float32 where it does not."""
    dtype = getattr(ModelSource(section).config(), "dtype", None)
    return str(dtype).removeprefix("torch.") if dtype is not None else "float32"
