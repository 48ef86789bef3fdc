"""Whether a merged model on disk says what the adapters on their base say: logits, short answers, held-out pairs."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.merge.merge_target import MergeTarget
from orpo_cli.merge.read_back import read_back
from orpo_cli.merge.unmerged_model import load_on_original_base, load_trained_model, with_cpu_attention
from orpo_cli.verify.logits import Difference, Tolerance, compare_logits, compute_logits

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Judge = Callable[[Any], dict[str, float]]  # of a model: its figures on held-out pairs

# How far logits may be from those of the adapter on its base. Measured on SmolLM2-135M (30 layers, logits up to 42):
# computed in float32 1.4e-4 absolute, 5e-6 relative (the absolute limit is for logits of that size, the relative one for
# larger); computed in bfloat16, where only that fits the memory, 0.06 relative, same top token at 99 % of positions.
COMPUTE_TOLERANCE = {
    "float32": Tolerance(max_absolute=1e-3, relative=2e-5, same_argmax=0.99),
    "float16": Tolerance(relative=0.05, same_argmax=0.90),
    "bfloat16": Tolerance(relative=0.20, same_argmax=0.90),
}
# The same for the stored model, computed in float32: what rounding the weights does. Measured: float16 0.002 relative,
# bfloat16 0.010 to 0.018, same top token at 97 % or more.
STORAGE_TOLERANCE = {
    "float32": COMPUTE_TOLERANCE["float32"],
    "float16": Tolerance(relative=0.01, same_argmax=0.95),
    "bfloat16": Tolerance(relative=0.05, same_argmax=0.90),
}
# Asked of a chat model, these end soon; what is not one is not asked.
SHORT_QUESTIONS = ("What colour is grass? Answer in one word.", "How much is two plus two?")
MAX_NEW_TOKENS = 32


@dataclass
class ComparisonResult:
    """What was found. ``difference_to_trained`` only where the trained model is not what the check compares with.

    ``problem`` says what is wrong where the models differ by more than rounding explains.
    """

    difference: Difference
    problem: str | None = None
    difference_to_trained: Difference | None = None
    generation: dict[str, Any] | None = None
    held_out: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ComparisonInputs:
    """What models are asked."""

    tokenizer: PreTrainedTokenizerBase
    prompts: list[Tensor]
    eos_token_ids: list[int]
    held_out_metrics: Judge | None


@dataclass
class _ModelOutputs:
    logits: list[Tensor]
    stopped: list[bool]
    held_out: dict[str, float] | None


def compare_models(
    folder: Path,
    target: MergeTarget,
    rows: int | None,
    dtype: str,
    questions: ComparisonInputs,
    note: Callable[[str], None],
) -> ComparisonResult:
    """Load the unmerged model, then the one in ``folder``, both computing in ``dtype``, and compare what they say.

    Raises RunError where the stored model is incomplete.
    """
    note(f"comparing with the unmerged model in {dtype}")
    trained = None
    if target.quantization is not None and target.into == "original":
        trained = _run_model(load_trained_model(target, rows, dtype), questions)
        gc.collect()
        reference = _run_model(
            load_on_original_base(target, rows, dtype),
            ComparisonInputs(questions.tokenizer, questions.prompts, [], None),
        )
    else:
        reference = _run_model(load_trained_model(target, rows, dtype), questions)
    gc.collect()
    merged = _run_model(
        read_back(folder, questions.eos_token_ids, like=with_cpu_attention(target.section), dtype=dtype), questions
    )
    gc.collect()

    difference = compare_logits(reference.logits, merged.logits)
    tolerance = STORAGE_TOLERANCE[target.dtype] if dtype == "float32" else COMPUTE_TOLERANCE[dtype]
    problem = None
    if not tolerance.allows(difference):
        problem = f"the stored model differs from the adapter on its base: {difference.text()}; allowed is {tolerance.text()}."
    unmerged = trained or reference
    verdict = ComparisonResult(difference, problem, compare_logits(trained.logits, merged.logits) if trained else None)
    if merged.stopped:
        verdict.generation = {
            "prompts": len(merged.stopped),
            "max_new_tokens": MAX_NEW_TOKENS,
            "stopped": sum(merged.stopped),
            "unmerged_stopped": sum(unmerged.stopped),
        }
    if merged.held_out is not None and unmerged.held_out is not None:
        verdict.held_out = {"merged": merged.held_out, "unmerged": unmerged.held_out}
    return verdict


def _run_model(model: PreTrainedModel | PeftModel, questions: ComparisonInputs) -> _ModelOutputs:
    """Logits first: they are computed as ``widen`` has left the model."""
    logits = compute_logits(model, questions.prompts)
    judged = questions.held_out_metrics(model) if questions.held_out_metrics is not None else None
    return _ModelOutputs(logits, _ended_answers(model, questions) if questions.eos_token_ids else [], judged)


def _ended_answers(model: PreTrainedModel | PeftModel, questions: ComparisonInputs) -> list[bool]:
    """Whether the answer to each of SHORT_QUESTIONS ends by itself; none are asked of a model without a chat template."""
    from orpo_cli.evaluation.generation import SamplingParams, generate_token_ids

    tokenizer = questions.tokenizer
    if not tokenizer.chat_template:
        return []
    prompts = [
        list(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
            )
        )
        for text in SHORT_QUESTIONS
    ]
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int) and max(map(len, prompts)) + MAX_NEW_TOKENS > positions:
        return []
    rows = generate_token_ids(
        model, tokenizer, prompts, SamplingParams(max_new_tokens=MAX_NEW_TOKENS), questions.eos_token_ids
    )
    return [bool(row) and row[-1] in questions.eos_token_ids for row in rows]
