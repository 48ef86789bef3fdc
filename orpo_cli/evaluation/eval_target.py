"""What is evaluated or talked to: the model of a run with its base beside it, or a model on its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from orpo_cli.errors import HubError, UsageError
from orpo_cli.plan.plan import ModelPlan, Plan
from orpo_cli.rundir import RunDir

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Variant = Literal["base", "tuned", "model"]


@dataclass
class EvalTarget:
    """``variants`` are base and tuned for a run, and model for a model on its own."""

    name: str  # as it was asked for
    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    rundir: RunDir | None = None
    plan: Plan | None = None

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The models that can be compared, the trained one last."""
        return ("model",) if self.rundir is None else ("base", "tuned")

    @contextmanager
    def use_variant(self, variant: Variant) -> Iterator[PreTrainedModel | PeftModel]:
        """The model of ``variant``. Base is the same model with its adapter switched off, wherever that is the base."""
        if variant != "base":
            yield self.model
        elif self._adapter_can_be_disabled:
            with self.model.disable_adapter():
                yield self.model
        else:
            yield self._base_model

    @cached_property
    def _adapter_can_be_disabled(self) -> bool:
        """Whether switching the adapter off gives the base: not where every weight was trained, or the adapter changed it.

        PEFT keeps trained biases, and what pissa and olora moved out of the base at the start, when an adapter is off.
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

        assert self.plan is not None, "only a run has a base"
        base = load_base(ModelSource(self.plan.model), self.plan.quantization, self.plan.device)
        resize_embeddings(base, self.tokenizer)
        return base


def open_eval_target(name: str, *, chat_template: str | None, note: Callable[[str], None]) -> EvalTarget:
    """Load the run directory, model folder, .gguf file or hub id ``name``.

    ``chat_template`` is as in a recipe and only for a model on its own; a run keeps the one it was trained with.
    Raises UsageError, MachineError or HubError.
    """
    rundir = RunDir(Path(name).expanduser())
    if rundir.is_run():
        return _open_run(name, rundir, chat_template, note)
    _check_is_model(name, rundir.root)
    return _open_model(name, chat_template or "tokenizer", note)


def find_run(name: str) -> RunDir | None:
    """The run ``name`` stands for, without loading anything; None where it is a model on its own."""
    rundir = RunDir(Path(name).expanduser())
    return rundir if rundir.is_run() else None


def _open_run(name: str, rundir: RunDir, chat_template: str | None, note: Callable[[str], None]) -> EvalTarget:
    from orpo_cli.model.trained_model import load_trained_model

    if chat_template is not None:
        raise UsageError(
            f"--chat-template does nothing for the run {name}: it keeps the template it was trained with.",
            remedy="Leave --chat-template out.",
        )
    plan = rundir.read_plan()
    note(f"loading {rundir.result()} on {plan.device}")
    model, tokenizer = load_trained_model(rundir)
    return EvalTarget(name, model, tokenizer, rundir, plan)


def _open_model(name: str, chat_template: str, note: Callable[[str], None]) -> EvalTarget:
    from orpo_cli.machine import probe
    from orpo_cli.model.base_model import load_base
    from orpo_cli.model.model_source import ModelSource
    from orpo_cli.model.tokenizer import load_tokenizer
    from orpo_cli.recipe.schema import Dtype, ModelSection

    section = ModelSection(model_name_or_path=name, chat_template=chat_template)
    source, device = ModelSource(section), probe().device
    try:
        stored = str(source.config().dtype).removeprefix("torch.")
        dtype: Any = stored if device != "cpu" and stored in get_args(Dtype) else "float32"
        planned = source.with_section(ModelPlan(**{**dict(section), "dtype": dtype, "attn_implementation": "sdpa"}))
        note(f"loading {name} on {device} in {dtype}")
        tokenizer = load_tokenizer(planned)
        model = load_base(planned, None, device)
    except HubError as error:
        raise type(error)(f"{name} is no folder here. {error.message}", remedy=error.remedy) from error
    return EvalTarget(name, model, tokenizer)


def _check_is_model(name: str, path: Path) -> None:
    if not path.exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise UsageError(
            f"{name}: no such run directory or model.", remedy="Give the output_dir of an `orpo train`, or a model."
        )
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        raise UsageError(
            f"{name} is a LoRA adapter without its base.",
            remedy="Give the run directory it belongs to, or merge it first: `orpo merge ADAPTER --base MODEL`.",
        )
    if path.is_dir() and not (path / "config.json").is_file():
        raise UsageError(
            f"{name} is neither a run directory nor a model folder: it holds no run.json and plan.json, and no config.json.",
            remedy="Give the output_dir of an `orpo train`, or a model.",
        )
