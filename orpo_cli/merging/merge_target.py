"""Merge request and merge target: what the user asked to merge, and the adapters, base and settings that this means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from orpo_cli.errors import OrpoError, UsageError
from orpo_cli.json_files import read_json_object
from orpo_cli.merging.mlx_adapter import is_mlx_adapter
from orpo_cli.merging.peft_adapters import Adapter
from orpo_cli.model.file_size import parse_size
from orpo_cli.model.model_source import ModelSource, holds_model_weights, locate
from orpo_cli.model.trained_model import refuse_missing_base
from orpo_cli.planning.plan import ModelPlan
from orpo_cli.recipe.schema import Dtype, ModelSection, QuantizationSection
from orpo_cli.rundir import RunDir, near_run_remedy

DEFAULT_SHARD_SIZE = "5GB"
DEFAULT_HELD_OUT_PAIRS = 32  # enough to notice a wrong merge; `orpo eval` scores all pairs
Into = Literal["trained", "original"]


@dataclass(frozen=True)
class MergeRequest:
    """Arguments of a merge, as given on the command line; None and empty values mean the default.

    ``target``: run, checkpoint of a run, or PEFT adapter folder. ``output``: default is the ``merged`` folder of the run.
    ``base``: overrides the base that the adapter names. ``dtype`` of the merged weights: default is the plan's.
    ``into``: for a quantized base, merge into the weights as trained or into the original ones.
    ``adapters``: further adapters of the same base. ``weights``: factor for the update of each adapter, ``target`` first.
    ``memory``: limit for the process, such as 8GB.
    """

    target: Path
    output: Path | None = None
    base: str | None = None
    dtype: str | None = None
    max_shard_size: str | None = None
    into: str | None = None
    adapters: Sequence[Path] = ()
    weights: Sequence[float] = ()
    memory: str | None = None
    held_out_pairs: int = DEFAULT_HELD_OUT_PAIRS
    overwrite: bool = False


@dataclass(frozen=True)
class MergeTarget:
    """Adapters, their base and the output of a merge. ``section.dtype``: the dtype of the base in training.

    ``quantization``: of the base in training. ``into``: whether the adapters are merged into those quantized weights.
    """

    adapters: tuple[Adapter, ...]
    output: Path
    section: ModelPlan
    dtype: str  # of the merged weights
    max_shard_size: str
    memory_limit: int | None = None  # bytes that the process may use, if the user gave a limit
    rundir: RunDir | None = None
    quantization: QuantizationSection | None = None
    device: str = "cpu"  # of the training
    into: Into = "trained"

    @cached_property
    def source(self) -> ModelSource[ModelPlan]:
        """The source of the base."""
        return ModelSource(self.section)

    @property
    def adapter(self) -> Path:
        """The folder of the first adapter."""
        return self.adapters[0].folder

    @property
    def merged_quantization(self) -> QuantizationSection | None:
        """The quantization of the weights that are merged into."""
        return self.quantization if self.into == "trained" else None

    @property
    def quantization_device(self) -> str:
        """The device that quantized the base in training, if this machine has it."""
        import torch

        return "cuda" if self.device == "cuda" and torch.cuda.is_available() else "cpu"


def resolve_target(request: MergeRequest) -> MergeTarget:
    """Find adapters, base and output. Reads only configurations. Raises UsageError if there is nothing to merge."""
    memory_limit = None if request.memory is None else parse_size(request.memory, "--memory")
    dtype, into, count = request.dtype, request.into, 1 + len(request.adapters)
    if dtype not in (None, "auto", *get_args(Dtype)):
        raise UsageError(f"--dtype {dtype}: not one of auto, {', '.join(get_args(Dtype))}.")
    if into not in (None, *get_args(Into)):
        raise UsageError(f"--into {into}: not one of {', '.join(get_args(Into))}.")
    if request.weights and len(request.weights) != count:
        raise UsageError(
            f"{len(request.weights)} --weight for {count} adapters.",
            remedy="Give one for RUN_OR_ADAPTER and one for each --adapter, in this order; or none: then each is 1.",
        )
    found = _resolve_one(request)
    if into is not None and found.quantization is None:
        raise UsageError(
            f"--into {into}: the base of {request.target} was not quantized in training, so there is only one base.",
            remedy="Omit --into.",
        )
    weights = list(request.weights) or [1.0] * count
    folders = [found.adapter, *(_resolve_other_adapter(each, found, request.base) for each in request.adapters)]
    adapters = tuple(Adapter(folder, weight) for folder, weight in zip(folders, weights, strict=True))
    merged_into: Into = "original" if into == "original" else "trained"
    return replace(found, adapters=adapters, into=merged_into, memory_limit=memory_limit)


def _resolve_other_adapter(path: Path, first: MergeTarget, base: str | None) -> Path:
    """The folder of a further adapter. Raises UsageError if it was trained on another base."""
    if not path.is_dir():
        raise UsageError(f"--adapter {path}: no such folder.")
    if _find_run(path) is not None:
        second = _resolve_one(MergeRequest(path, output=Path()))
        folder, quantization = second.adapter, second.quantization
        name: Any = second.section.model_name_or_path
    else:
        folder, name, quantization = path, _named_base(path, _read_adapter_config(path)), first.quantization
    if base is None and name != first.section.model_name_or_path:
        raise UsageError(
            f"--adapter {path} was trained on {name}, not on {first.section.model_name_or_path}.",
            remedy="Merge adapters of one base; if both names mean the same model, give it with --base.",
        )
    if quantization != first.quantization:
        raise UsageError(
            f"--adapter {path}: its base had another quantization in training.", remedy="Merge the adapters separately."
        )
    return folder


def _resolve_one(request: MergeRequest) -> MergeTarget:
    """The target with its first adapter only."""
    target, output, base = request.target, request.output, request.base
    if not target.is_dir():
        remedy = near_run_remedy(target, "Give a run directory, or the folder of a PEFT adapter.")
        raise UsageError(f"{target}: {'not a' if target.exists() else 'no such'} folder.", remedy=remedy)
    rundir = _find_run(target)
    if rundir is None:
        return _resolve_bare_adapter(request)

    plan = rundir.read_plan()
    if plan.lora is None:
        raise UsageError(
            f"{rundir.root} trained all weights of the model: there is nothing to merge.",
            remedy=f"The model is {rundir.model}.",
        )
    checkpoint = target.absolute().parent == rundir.checkpoints.absolute()
    if checkpoint and output is None:
        raise UsageError(f"{target} is a checkpoint.", remedy="Give the folder for the merged model with -o.")
    section = plan.model.model_copy(update={"device_map": None})  # merge and comparison use one device
    if base is None:
        refuse_missing_base(rundir, plan)
    else:
        update = {"model_name_or_path": base, "model_revision": "main", "subfolder": ""}
        section = section.model_copy(update=update)
    dtype = request.dtype or plan.merge.dtype
    return MergeTarget(
        adapters=(Adapter(target if checkpoint else rundir.result()),),
        rundir=rundir,
        output=output or rundir.merged,
        section=section,
        quantization=plan.quantization,
        device=plan.device,
        dtype=section.dtype if dtype == "auto" else dtype,
        max_shard_size=request.max_shard_size or plan.merge.max_shard_size,
    )


def _find_run(target: Path) -> RunDir | None:
    """The run directory that is ``target``, or that contains it as its result or as a checkpoint."""
    if (rundir := RunDir.find(target)) is not None:
        return rundir
    folder = target.absolute().parent
    rundir = RunDir(folder.parent)
    return rundir if folder == rundir.checkpoints and rundir.is_run() else None


def _resolve_bare_adapter(request: MergeRequest) -> MergeTarget:
    """The target of an adapter that is not in a run directory."""
    adapter, base = request.target, request.base
    config = _read_adapter_config(adapter)
    if request.output is None:
        raise UsageError(
            f"{adapter} is an adapter outside of a run.", remedy="Give the folder for the merged model with -o."
        )
    name = base or _named_base(adapter, config)
    if not name:
        beside = holds_model_weights(adapter)
        also = f" {adapter} also contains a model: if that is the base, give `--base {adapter}`." if beside else ""
        raise UsageError(f"{adapter}/adapter_config.json names no base model.{also}", remedy="Give it with --base.")
    try:
        if not is_same_folder(Path(name), adapter):
            locate(str(name))
    except OrpoError as error:
        if base is not None:
            raise
        raise UsageError(f"{adapter}: its base model: {error.message}", remedy="Give the base with --base.") from error
    revision = "main" if base is not None else (config.get("revision") or "main")
    named = ModelSection(model_name_or_path=str(name), model_revision=revision)
    dtype = _base_dtype_beside(adapter) if is_same_folder(Path(name), adapter) else _base_dtype(named)
    decided: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa"}
    section = ModelPlan(**{**dict(named), **decided})
    return MergeTarget(
        adapters=(Adapter(adapter),),
        output=request.output,
        section=section,
        dtype=section.dtype if request.dtype in (None, "auto") else str(request.dtype),
        max_shard_size=request.max_shard_size or DEFAULT_SHARD_SIZE,
    )


def _read_adapter_config(adapter: Path) -> dict[str, Any]:
    path = adapter / "adapter_config.json"
    inner = sorted(each.parent for each in adapter.glob("*/adapter_config.json"))
    if not path.is_file() and inner:
        raise UsageError(
            f"{adapter} contains adapters in subfolders: {', '.join(each.name for each in inner)}.",
            remedy=f"Give one of them, such as `orpo merge {inner[0]}`; `--adapter` adds another.",
        )
    if not path.is_file():
        kind = "a model, not an adapter" if (adapter / "config.json").is_file() else "neither a run nor a PEFT adapter"
        raise UsageError(
            f"{adapter} is {kind}: it has no {path.name}.",
            remedy="Give a run directory, or the folder of an adapter.",
        )
    return read_json_object(path, remedy="Download or save the adapter again.")


def _named_base(adapter: Path, config: dict[str, Any]) -> Any:
    """The base that an adapter_config.json names."""
    return config.get("base_model_name_or_path") or (config.get("model") if is_mlx_adapter(adapter) else None)


def is_same_folder(base: Path, adapter: Path) -> bool:
    """Whether a base is in the folder of the adapter."""
    return base.is_dir() and base.samefile(adapter) and holds_model_weights(adapter)


def _base_dtype_beside(adapter: Path) -> str:
    """The dtype of a base in the folder of the adapter."""
    config = read_json_object(adapter / "config.json", remedy="Download or save the model again.")
    text = config.get("text_config") or {}
    dtype = str(config.get("dtype") or config.get("torch_dtype") or text.get("dtype"))
    return dtype if dtype in get_args(Dtype) else "float32"


def _base_dtype(section: ModelSection) -> str:
    """The dtype of the base's weights according to its config.json; float32 if it has none, or one that a plan does not have."""
    dtype = str(getattr(ModelSource(section).config(), "dtype", None)).removeprefix("torch.")
    return dtype if dtype in get_args(Dtype) else "float32"
