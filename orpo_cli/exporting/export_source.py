"""Export source: the model of a run, whose adapter is merged first, or a model folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.digests import file_sha256
from orpo_cli.errors import UsageError
from orpo_cli.json_files import read_json_object
from orpo_cli.merging.merge import merge
from orpo_cli.merging.merge_record import MergeRecord, adapter_digests
from orpo_cli.merging.merge_target import MergeRequest
from orpo_cli.model.base_model import load_base
from orpo_cli.model.model_facts import model_facts
from orpo_cli.model.model_source import ModelSource, locate
from orpo_cli.model.trained_model import refuse_missing_base
from orpo_cli.model.weight_files import find_weight_files
from orpo_cli.planning.model_facts import ModelFacts
from orpo_cli.planning.plan import ModelPlan, Plan
from orpo_cli.recipe.schema import ExportSection, ModelSection, QuantizationSection
from orpo_cli.rundir import RunDir, near_run_remedy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ORIGIN_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "*.jinja",
    "*.safetensors",
)


@dataclass(frozen=True)
class ExportSource:
    """A model to export. ``folder`` does not exist yet if ``needs_merge``; ``base`` has the same configuration.

    ``origin``: identity of the model, as digests of the adapter or of the model files.
    """

    name: str
    folder: Path
    rundir: RunDir | None
    needs_merge: bool
    base: ModelPlan
    settings: ExportSection  # of the run's plan, else the defaults
    dtype: str  # of the weights in ``folder``
    origin: dict[str, str]

    @cached_property
    def source(self) -> ModelSource[ModelPlan]:
        """The source of ``base``."""
        return ModelSource(self.base)

    @cached_property
    def facts(self) -> ModelFacts:
        """Number of parameters and other facts that do not need the weights."""
        return model_facts(self.source)

    def section(self, folder: Path | None = None, dtype: str = "float32") -> ModelPlan:
        """Settings to load the model, or its export in ``folder``, on the CPU."""
        attention = "sdpa" if self.facts.supports_sdpa else "eager"
        options = {"dtype": dtype, "attn_implementation": attention, "chat_template": "tokenizer"}
        return self.base.stored_in(str(folder or self.folder), add_special_tokens=[], **options)

    def load(
        self, folder: Path | None = None, *, dtype: str, quantization: QuantizationSection | None = None
    ) -> PreTrainedModel:
        """The model, or its export in ``folder``, on the CPU."""
        return load_base(ModelSource(self.section(folder, dtype)), quantization, "cpu")

    def ensure_merged(self, note: Callable[[str], None]) -> None:
        """Merge the run's adapter, unless that has been done."""
        if self.needs_merge and self.rundir is not None:
            note(f"merging {self.rundir.adapter} into its base first")
            merge(MergeRequest(self.rundir.root), note=note)


def resolve_source(target: Path) -> ExportSource:
    """Find the model of ``target``. Raises UsageError if there is none, or if its merge is outdated."""
    if not target.is_dir():
        remedy = near_run_remedy(target, "Give a run directory, or the folder of a model.")
        raise UsageError(f"{target}: {'not a' if target.exists() else 'no such'} folder.", remedy=remedy)
    if (rundir := RunDir.find(target)) is not None:
        return _resolve_run(rundir)
    if not (target / "config.json").is_file():
        adapter = (target / "adapter_config.json").is_file()
        raise UsageError(
            f"{target} is {'an adapter without its base' if adapter else 'neither a run nor a model'}.",
            remedy=f"Merge it first: orpo merge {target} -o DIR."
            if adapter
            else "Give a run directory, or the folder of a model.",
        )
    _check_exportable(target)
    base = ModelPlan(model_name_or_path=str(target), dtype="float32", attn_implementation="sdpa")
    name = target.absolute().name
    if (run := RunDir.find(target, merged=True)) is not None:
        name = run.read_plan().name
    return ExportSource(name, target, None, False, base, ExportSection(), weights_dtype(target), file_digests(target))


def _resolve_run(rundir: RunDir) -> ExportSource:
    plan, result = rundir.read_plan(), rundir.result()
    if result == rundir.model:
        _check_exportable(result)
        base = plan.model.stored_in(str(result))
        return ExportSource(
            plan.name, result, rundir, False, base, _export_settings(plan), weights_dtype(result), file_digests(result)
        )
    refuse_missing_base(rundir, plan)
    digests = adapter_digests(rundir.adapter)
    record = MergeRecord.read(rundir.merged)
    if record is not None:
        remedy = f"Merge again: orpo merge {rundir.root} --overwrite"
        if not (record.is_usable and record.is_complete(rundir.merged)):
            raise UsageError(f"{rundir.merged} is incomplete: files are missing or changed.", remedy=remedy)
        if record.adapter_sha256 != digests:
            raise UsageError(f"{rundir.merged} was merged from another adapter than {rundir.adapter}.", remedy=remedy)
    dtype = record.dtype if record is not None else plan.merge.dtype
    origin = {**digests, "base": f"{plan.model.model_name_or_path}@{plan.model.model_revision}", "merged_dtype": dtype}
    if record is not None:
        origin["base"] = f"{record.base}@{record.base_revision}"
        if record.into != "trained":
            origin["into"] = record.into
        if record.adapters:
            origin["adapters"] = json.dumps(record.adapters, sort_keys=True)
    return ExportSource(
        plan.name, rundir.merged, rundir, record is None, plan.model, _export_settings(plan), dtype, origin
    )


def _export_settings(plan: Plan) -> ExportSection:
    """The plan's settings, with the dtype of the merged weights unless the user chose one."""
    why = plan.why.get("export.dtype")
    chosen = why is not None and why.origin != "decided"
    return plan.export if chosen else ExportSection(**{**dict(plan.export), "dtype": "auto"})


def _check_exportable(folder: Path) -> None:
    """Raise UsageError for quantized weights, which have lost precision, for an adapter, and for weights not in safetensors."""
    locate(str(folder))
    config = read_json_object(folder / "config.json")
    if config.get("quantization_config"):
        raise UsageError(
            f"the model in {folder} is quantized: its config.json has a quantization_config.",
            remedy="Export the model that was quantized.",
        )
    files = find_weight_files(ModelSource(ModelSection(model_name_or_path=str(folder))))
    if not files or files[0].suffix != ".safetensors":
        raise UsageError(f"{folder} has no weights in safetensors.", remedy="Save it with save_pretrained first.")


def weights_dtype(folder: Path) -> str:
    """The dtype of a model's weights according to its config.json; float32 if it names none."""
    config = read_json_object(folder / "config.json")
    text = config.get("text_config") or {}
    return str(config.get("dtype") or config.get("torch_dtype") or text.get("dtype") or "float32")


def file_digests(folder: Path) -> dict[str, str]:
    """The sha256 of every file that affects the outputs of a model."""
    return {path.name: file_sha256(path) for pattern in ORIGIN_FILES for path in sorted(folder.glob(pattern))}
