"""Loading of the trained model of a run: base model and adapter, or all weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orpo_cli.model.added_tokens import resize_embeddings
from orpo_cli.model.base_model import load_base
from orpo_cli.model.load_errors import explain_load_errors
from orpo_cli.model.model_source import ModelSource
from orpo_cli.model.tokenizer import load_saved_tokenizer
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

    base = load_base(ModelSource(plan.model), plan.quantization, plan.device)
    resize_embeddings(base, tokenizer)
    with explain_load_errors(str(result)):
        return PeftModel.from_pretrained(base, result).eval(), tokenizer
