"""Loading of the trained model of a run: base model and adapter, or all weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.errors import UsageError
from orpo_cli.model.added_tokens import resize_embeddings
from orpo_cli.model.base_model import load_base
from orpo_cli.model.load_errors import explain_load_errors
from orpo_cli.model.model_source import ModelSource
from orpo_cli.model.tokenizer import load_saved_tokenizer
from orpo_cli.planning.plan import Plan
from orpo_cli.rundir import RunDir

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_trained_model(rundir: RunDir) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """The run's model in eval mode on the plan's device (a PeftModel for LoRA runs) and its tokenizer.

    Raises UsageError where training has not finished.
    """
    result = rundir.result()
    plan = rundir.read_plan()
    tokenizer = load_saved_tokenizer(result, trust_remote_code=plan.model.trust_remote_code)
    if result == rundir.model:
        return load_base(ModelSource(plan.model.stored_in(str(result))), plan.quantization, plan.device), tokenizer

    from peft import PeftModel

    refuse_missing_base(rundir, plan)
    base = load_base(ModelSource(plan.model), plan.quantization, plan.device)
    resize_embeddings(base, tokenizer)
    with explain_load_errors(str(result)):
        return PeftModel.from_pretrained(base, result).eval(), tokenizer


def refuse_missing_base(rundir: RunDir, plan: Plan) -> None:
    """Raise UsageError where the local base model of a run is gone: its name would be taken for one on the hub."""
    base = Path(plan.model.model_name_or_path)
    if base.is_absolute() and not base.exists():
        raise UsageError(
            f"{base} is gone. It is the base model of {rundir.root}, as {rundir.plan} says.",
            remedy="Restore it. If it is at another place, record that: "
            "`orpo train RECIPE --resume auto --set model.model_name_or_path=PLACE`.",
        )
