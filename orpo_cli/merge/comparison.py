"""Whether a merged model on disk says what the adapters on their base say: logits, short answers, held-out pairs."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.merge.merge_target import MergeTarget
from orpo_cli.merge.read_back import read_back
from orpo_cli.merge.unmerged_model import load_original, load_trained, on_cpu
from orpo_cli.verify.logits import Difference, Tolerance, compare, logits_of

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Judge = Callable[[Any], dict[str, float]]  # of a model: its figures on held-out pairs

# How far logits may be from those of the adapter on its base. Measured on SmolLM2-135M (30 layers, logits up to 42):
# computed in float32 1.4e-4 absolute, 5e-6 relative (the absolute limit is for logits of that size, the relative one for
# larger); computed in bfloat16, where only that fits the memory, 0.06 relative, same top token at 99 % of positions.
COMPUTED = {
    "float32": Tolerance(max_absolute=1e-3, relative=2e-5, same_argmax=0.99),
    "float16": Tolerance(relative=0.05, same_argmax=0.90),
    "bfloat16": Tolerance(relative=0.20, same_argmax=0.90),
}
# The same for the stored model, computed in float32: what rounding the weights does. Measured: float16 0.002 relative,
# bfloat16 0.010 to 0.018, same top token at 97 % or more.
STORED = {
    "float32": COMPUTED["float32"],
    "float16": Tolerance(relative=0.01, same_argmax=0.95),
    "bfloat16": Tolerance(relative=0.05, same_argmax=0.90),
}
# Asked of a chat model, these end soon; what is not one is not asked.
SHORT_QUESTIONS = ("What colour is grass? Answer in one word.", "How much is two plus two?")
NEW_TOKENS = 32


@dataclass
class Verdict:
    """What was found. ``difference_to_trained`` only where the trained model is not what the check compares with.

    ``problem`` says what is wrong where the models differ by more than rounding explains.
    """

    stored: Difference
    problem: str | None = None
    difference_to_trained: Difference | None = None
    generation: dict[str, Any] | None = None
    held_out: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Questions:
    """What models are asked."""

    tokenizer: PreTrainedTokenizerBase
    prompts: list[Tensor]
    ends: list[int]
    judge: Judge | None


@dataclass
class _Answers:
    logits: list[Tensor]
    stopped: list[bool]
    judged: dict[str, float] | None


def check_whole(
    folder: Path, target: MergeTarget, rows: int | None, dtype: str, questions: Questions, note: Callable[[str], None]
) -> Verdict:
    """Load the unmerged model, then the one in ``folder``, both computing in ``dtype``, and compare what they say.

    Raises RunError where the stored model is incomplete.
    """
    note(f"comparing with the unmerged model in {dtype}")
    trained = None
    if target.quantization is not None and target.into == "original":
        trained = _ask(load_trained(target, rows, dtype), questions)
        gc.collect()
        reference = _ask(
            load_original(target, rows, dtype), Questions(questions.tokenizer, questions.prompts, [], None)
        )
    else:
        reference = _ask(load_trained(target, rows, dtype), questions)
    gc.collect()
    merged = _ask(read_back(folder, questions.ends, like=on_cpu(target.section), dtype=dtype), questions)
    gc.collect()

    difference = compare(reference.logits, merged.logits)
    tolerance = STORED[target.dtype] if dtype == "float32" else COMPUTED[dtype]
    problem = None
    if not tolerance.holds(difference):
        problem = f"the stored model differs from the adapter on its base: {difference.text()}; allowed is {tolerance.text()}."
    unmerged = trained or reference
    verdict = Verdict(difference, problem, compare(trained.logits, merged.logits) if trained else None)
    if merged.stopped:
        verdict.generation = {
            "prompts": len(merged.stopped),
            "max_new_tokens": NEW_TOKENS,
            "stopped": sum(merged.stopped),
            "unmerged_stopped": sum(unmerged.stopped),
        }
    if merged.judged is not None and unmerged.judged is not None:
        verdict.held_out = {"merged": merged.judged, "unmerged": unmerged.judged}
    return verdict


def _ask(model: PreTrainedModel | PeftModel, questions: Questions) -> _Answers:
    """Logits first: they are computed as ``widen`` has left the model."""
    logits = logits_of(model, questions.prompts)
    judged = questions.judge(model) if questions.judge is not None else None
    return _Answers(logits, _stops(model, questions) if questions.ends else [], judged)


def _stops(model: PreTrainedModel | PeftModel, questions: Questions) -> list[bool]:
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
    if isinstance(positions, int) and max(map(len, prompts)) + NEW_TOKENS > positions:
        return []
    rows = generate_token_ids(model, tokenizer, prompts, SamplingParams(max_new_tokens=NEW_TOKENS), questions.ends)
    return [bool(row) and row[-1] in questions.ends for row in rows]
