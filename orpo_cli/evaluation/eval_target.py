"""Evaluation target: the tuned and base model of a run, or a single model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from orpo_cli.digests import file_sha256
from orpo_cli.errors import HubError, UsageError
from orpo_cli.json_files import read_json_object_or_empty
from orpo_cli.library_imports import import_libraries
from orpo_cli.nearest_path import near_path_remedy
from orpo_cli.planning.plan import ModelPlan, Plan
from orpo_cli.recipe.hub_address import address_remedy, is_address
from orpo_cli.rundir import RUNS_FOLDER, RunDir, near_run_remedy

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_RUNS_LISTED = 5
Variant = Literal["base", "tuned", "model"]


@dataclass
class EvalTarget:
    """Model to evaluate or chat with. ``variants``: base and tuned for a run, model for a single model."""

    name: str  # as the user gave it
    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    rundir: RunDir | None = None
    plan: Plan | None = None

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Variants that can be compared, the tuned one last."""
        return ("model",) if self.rundir is None else ("base", "tuned")

    @cached_property
    def trained_as_text(self) -> bool:
        """Whether a run was trained on texts without the chat template of its tokenizer, so that it is asked without it."""
        from orpo_cli.data.text_pairs import trained_as_text

        if self.rundir is None or self.tokenizer.chat_template is None:
            return False
        return trained_as_text(self.rundir.read_data_report())

    @contextmanager
    def use_variant(self, variant: Variant) -> Iterator[PreTrainedModel | PeftModel]:
        """Model of ``variant``. The base is the tuned model with its adapter disabled, where that gives the base."""
        if variant != "base":
            yield self.model
        elif self.disabled_adapter_is_base:
            with self.model.disable_adapter():
                yield self.model
        else:
            yield self._base_model

    @cached_property
    def disabled_adapter_is_base(self) -> bool:
        """Whether disabling the adapter gives the base: not after full fine-tuning, nor where the adapter changed base weights.

        With its adapter disabled, PEFT keeps trained biases, and the base weights that pissa and olora changed at the start.
        """
        from peft import PeftModel

        if not isinstance(self.model, PeftModel):
            return False
        config = self.model.peft_config[self.model.active_adapter]
        return config.bias == "none" and config.init_lora_weights in (True, False, "gaussian", "orthogonal")

    @cached_property
    def _base_model(self) -> PreTrainedModel:
        from orpo_cli.model.added_tokens import resize_embeddings
        from orpo_cli.model.base_model import load_base
        from orpo_cli.model.model_source import ModelSource
        from orpo_cli.model.trained_model import refuse_missing_base

        assert self.plan is not None, "only a run has a base"
        assert self.rundir is not None
        refuse_missing_base(self.rundir, self.plan)
        base = load_base(ModelSource(self.plan.model), self.plan.quantization, self.plan.device)
        resize_embeddings(base, self.tokenizer)
        return base


def open_eval_target(name: str, *, chat_template: str | None, note: Callable[[str], None]) -> EvalTarget:
    """Load the run directory, model folder, .gguf file or hub id ``name``.

    ``chat_template`` is as in a recipe and only for a single model; a run keeps the one it was trained with.
    Raises UsageError, MachineError or HubError.
    """
    rundir = find_run(name)
    if rundir is not None:
        return _open_run(str(rundir.root), rundir, chat_template, note)
    check_is_model(name)
    _note_earlier_merge(name, note)
    return _open_model(name, chat_template or "tokenizer", note)


def _note_earlier_merge(name: str, note: Callable[[str], None]) -> None:
    """Say where the model is a run's merged model, and the run has another adapter since: it was trained longer."""
    path = Path(name).expanduser()
    run = RunDir.find(path, merged=True)
    if run is None or path.resolve() != run.merged.resolve():
        return
    merged = read_json_object_or_empty(path / "merge.json").get("adapter_sha256")
    digests = merged.items() if isinstance(merged, dict) else ()
    if any((file := run.adapter / name).is_file() and file_sha256(file) != digest for name, digest in digests):
        note(
            f"warning: {name} was merged from an earlier adapter of the run, which has been trained since. Merge again: orpo merge {run.root} "
            "--overwrite"
        )


def find_run(name: str) -> RunDir | None:
    """Run that ``name`` is, or whose adapter or model it is, without loading it; None where ``name`` is a single model."""
    return RunDir.find(Path(name).expanduser())


def _open_run(name: str, rundir: RunDir, chat_template: str | None, note: Callable[[str], None]) -> EvalTarget:
    from orpo_cli.model.trained_model import load_trained_model

    refuse_chat_template(name, chat_template)
    plan = rundir.read_plan()
    import_libraries("transformers.modeling_utils", "peft")
    note(f"loading {rundir.result()} on {plan.device}")
    model, tokenizer = load_trained_model(rundir)
    return EvalTarget(name, model, tokenizer, rundir, plan)


def refuse_chat_template(run: str, chat_template: str | None) -> None:
    """Raise UsageError for another chat template than that of the run."""
    if chat_template is not None:
        raise UsageError(
            f"--chat-template does nothing for the run {run}: it keeps the template it was trained with.",
            remedy="Leave --chat-template out.",
        )


def _open_model(name: str, chat_template: str, note: Callable[[str], None]) -> EvalTarget:
    from orpo_cli.machine import probe
    from orpo_cli.model.base_model import load_base
    from orpo_cli.model.model_source import ModelSource
    from orpo_cli.model.tokenizer import load_tokenizer
    from orpo_cli.recipe.schema import Dtype, ModelSection

    import_libraries("transformers.modeling_utils")
    section = ModelSection(model_name_or_path=name, chat_template=chat_template)
    source, device = ModelSource(section), probe().device
    try:
        checkpoint_dtype = str(source.config().dtype).removeprefix("torch.")
        dtype: Any = checkpoint_dtype if device != "cpu" and checkpoint_dtype in get_args(Dtype) else "float32"
        planned = source.with_section(ModelPlan(**{**dict(section), "dtype": dtype, "attn_implementation": "sdpa"}))
        note(f"loading {name} on {device} in {dtype}")
        tokenizer = load_tokenizer(planned)
        model = load_base(planned, None, device)
    except HubError as error:
        remedy = near_run_remedy(name, error.remedy or "")
        raise type(error)(f"{name} is not a local folder. {error.message}", remedy=remedy) from error
    return EvalTarget(name, model, tokenizer)


def _is_target(path: Path) -> bool:
    from orpo_cli.model.model_source import is_model_path

    return RunDir.find(path) is not None or is_model_path(path)


def _runs_beside(path: Path) -> list[str]:
    """Paths of the runs in the folder of ``path``. A name of the hub has no such folder; one with models may be there."""
    try:
        return sorted(str(each) for each in path.parent.iterdir() if RunDir(each).is_run())
    except OSError:
        return []


def check_is_model(name: str) -> None:
    """Raise UsageError for a name that is neither a model folder nor can be the name of a model of the hub."""
    path = Path(name).expanduser()
    name.encode()  # raises UnicodeEncodeError for a name that is not UTF-8
    if is_address(name):
        raise UsageError(f"{name} is a web address, not a model.", remedy=address_remedy(name))
    runs = _runs_beside(path)
    is_local = name.startswith((".", "/", "~", f"{RUNS_FOLDER}/")) or name.count("/") > 1 or (runs and "/" in name)
    if not path.exists() and is_local:
        otherwise = "Give the output_dir of an `orpo train`, or a model."
        if runs:
            otherwise = f"The runs there: {', '.join(runs[:MAX_RUNS_LISTED])}{', …' * (len(runs) > MAX_RUNS_LISTED)}."
        raise UsageError(
            f"{name}: no such run directory or model.", remedy=near_path_remedy(path, otherwise, _is_target)
        )
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        raise UsageError(
            f"{name} is a LoRA adapter without its base.",
            remedy="Give the run directory it belongs to, or merge it first: `orpo merge ADAPTER --base MODEL`.",
        )
    if path.is_dir() and not (path / "config.json").is_file():
        raise UsageError(
            f"{name} is neither a run directory nor a model folder: it has no run.json and plan.json, and no config.json.",
            remedy="Give the output_dir of an `orpo train`, or a model.",
        )
