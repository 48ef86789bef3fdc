"""Comparison of a merged model on disk with the unmerged one: logits, short answers, held-out pairs."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.errors import RunError
from orpo_cli.merging.merge_record import MergeRecord
from orpo_cli.merging.merge_target import MergeTarget
from orpo_cli.merging.unmerged_model import load_on_original_base, load_trained_model, with_cpu_attention
from orpo_cli.model.chat_template_errors import explain_template_errors
from orpo_cli.model.onednn import use_onednn
from orpo_cli.planning.plan import ModelPlan
from orpo_cli.verify.compare_logits import Tolerance, compare_logits, compute_logits
from orpo_cli.verify.held_out_metrics import HeldOutMetrics

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from orpo_cli.evaluation.answers import BeginCount

# Allowed difference of logits, by the dtype they are computed in. Measured on SmolLM2-135M (30 layers, logits up to 42):
# in float32 1.4e-4 absolute, 5e-6 relative (the absolute limit is for logits of that size, the relative one for larger
# logits); in bfloat16, used if float32 does not fit into memory, 0.06 relative, same top token at 99 % of positions.
COMPUTE_TOLERANCE = {
    "float32": Tolerance(max_absolute=1e-3, relative=2e-5, same_argmax=0.99),
    "float16": Tolerance(relative=0.05, same_argmax=0.90),
    "bfloat16": Tolerance(relative=0.20, same_argmax=0.90),
}
# Allowed difference of logits computed in float32, by the dtype of the saved weights: the effect of rounding them.
# Measured: float16 0.002 relative, bfloat16 0.010 to 0.018, same top token at 97 % or more of positions.
STORAGE_TOLERANCE = {
    "float32": COMPUTE_TOLERANCE["float32"],
    "float16": Tolerance(relative=0.01, same_argmax=0.95),
    "bfloat16": Tolerance(relative=0.05, same_argmax=0.90),
}
# Chat models answer these in a few tokens. A model without a chat template is not asked.
SHORT_QUESTIONS = ("What colour is grass? Answer in one word.", "How much is two plus two?")
MAX_NEW_TOKENS = 32


@dataclass(frozen=True)
class ComparisonInputs:
    """Inputs of both models. ``begin_count`` shows how many held-out pairs are scored."""

    tokenizer: PreTrainedTokenizerBase
    prompts: list[Tensor]
    eos_token_ids: list[int]
    held_out_metrics: HeldOutMetrics | None
    begin_count: BeginCount


@dataclass
class _ModelOutputs:
    logits: list[Tensor]
    answers_ended: list[bool]
    held_out: dict[str, float] | None


def compare_models(
    record: MergeRecord,
    folder: Path,
    target: MergeTarget,
    vocab_size: int | None,
    dtype: str,
    inputs: ComparisonInputs,
    note: Callable[[str], None],
) -> MergeRecord:
    """Load the unmerged model, then the one in ``folder``, both in ``dtype``, and add the comparison to ``record``.

    ``vocab_size``: of the trained model, if it differs from the base's. Raises RunError if the saved model is incomplete.
    """
    use_onednn()
    pairs = 0 if inputs.held_out_metrics is None else inputs.held_out_metrics.pairs
    inputs_text = f"{len(inputs.prompts)} prompts" + (f" and {pairs} held-out pairs" if pairs else "")
    note(f"comparing with the unmerged model in {dtype} on {inputs_text}: 1 of 2, the unmerged model")
    trained = reference = _run_model(load_trained_model(target, vocab_size, dtype), inputs, "unmerged")
    gc.collect()
    if target.merged_quantization != target.quantization:
        logits_only = replace(inputs, eos_token_ids=[], held_out_metrics=None)
        reference = _run_model(load_on_original_base(target, vocab_size, dtype), logits_only, "unmerged")
        gc.collect()
    note("comparing: 2 of 2, the merged model")
    section = with_cpu_attention(target.section)
    saved = _load_saved_model(folder, inputs.eos_token_ids, section=section, dtype=dtype)
    merged = _run_model(saved, inputs, "merged")
    del saved
    gc.collect()

    difference = compare_logits(reference.logits, merged.logits)
    to_trained = compare_logits(trained.logits, merged.logits).as_dict() if reference is not trained else None
    tolerance = STORAGE_TOLERANCE[target.dtype] if dtype == "float32" else COMPUTE_TOLERANCE[dtype]
    problem = None
    if not tolerance.allows(difference):
        problem = f"the saved model differs from the unmerged model: {difference.text()}; allowed: {tolerance.text()}."
    generation, held_out = None, None
    if merged.answers_ended:
        generation = {
            "prompts": len(merged.answers_ended),
            "max_new_tokens": MAX_NEW_TOKENS,
            "stopped": sum(merged.answers_ended),
            "unmerged_stopped": sum(trained.answers_ended),
        }
    if merged.held_out is not None and trained.held_out is not None:
        held_out = {"merged": merged.held_out, "unmerged": trained.held_out}
    return replace(
        record,
        verified=problem is None,
        problem=problem,
        verification="logits",
        computed_in=dtype,
        max_logit_difference=difference.max_absolute,
        checks={"stored": difference.as_dict()},
        difference_to_trained=to_trained,
        generation=generation,
        held_out=held_out,
    )


def _load_saved_model(folder: Path, eos_token_ids: list[int], *, section: ModelPlan, dtype: str) -> PreTrainedModel:
    """The model in ``folder``, in ``dtype`` on the CPU. Raises RunError if its files are not as expected."""
    from orpo_cli.model.base_model import load_base
    from orpo_cli.model.model_source import ModelSource

    model = load_base(ModelSource(section.stored_in(str(folder), dtype=dtype, device_map=None)), None, "cpu")
    problems = []
    if getattr(model.config, "quantization_config", None) is not None:
        problems.append("config.json still has a quantization_config")
    found = model.generation_config.eos_token_id if model.generation_config is not None else None
    if eos_token_ids and set(found if isinstance(found, list) else [found]) != set(eos_token_ids):
        problems.append(f"generation_config.json has the end tokens {found}, not {eos_token_ids}")
    if not any(folder.glob("*.safetensors")):
        problems.append("there is no safetensors file")
    if problems:
        raise RunError(f"the saved model is not as expected: {'; '.join(problems)}.", remedy="Please report it.")
    return model


def _run_model(model: PreTrainedModel | PeftModel, inputs: ComparisonInputs, name: str) -> _ModelOutputs:
    """Outputs of the model ``name``. Logits come first: generation may change how quantized layers compute (set_compute_dtype)."""
    logits = compute_logits(model, inputs.prompts)
    held_out = None
    if inputs.held_out_metrics is not None:
        held_out = inputs.held_out_metrics(model, inputs.begin_count(f"scoring answers, {name}"))
    return _ModelOutputs(logits, _answers_ended(model, inputs) if inputs.eos_token_ids else [], held_out)


def _answers_ended(model: PreTrainedModel | PeftModel, inputs: ComparisonInputs) -> list[bool]:
    """Whether the answer to each of SHORT_QUESTIONS ends before the token limit; empty without a chat template."""
    from orpo_cli.evaluation.generation import SamplingParams, generate_token_ids

    tokenizer = inputs.tokenizer
    if not tokenizer.chat_template:
        return []
    conversations = [[{"role": "user", "content": text}] for text in SHORT_QUESTIONS]
    with explain_template_errors(tokenizer):
        prompts = [
            list(tokenizer.apply_chat_template(each, add_generation_prompt=True, return_dict=False))
            for each in conversations
        ]
    max_positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(max_positions, int) and max(map(len, prompts)) + MAX_NEW_TOKENS > max_positions:
        return []
    sampling = SamplingParams(max_new_tokens=MAX_NEW_TOKENS)
    answers = generate_token_ids(model, tokenizer, prompts, sampling, inputs.eos_token_ids)
    return [bool(answer) and answer[-1] in inputs.eos_token_ids for answer in answers]
