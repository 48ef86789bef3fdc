"""vLLM backend of answers, on a GPU: the adapter of a run is applied while the base model runs.

Not tried: no test runs vLLM. It follows the documented interface of ``vllm.LLM``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.digests import file_xxh3
from orpo_cli.errors import MachineError, UsageError
from orpo_cli.evaluation.answer_backend import CompleteBatch, FixedBatches
from orpo_cli.evaluation.eval_target import Variant
from orpo_cli.evaluation.generation import Completion, SamplingParams
from orpo_cli.evaluation.prompts import Prompt, PromptBuilder
from orpo_cli.evaluation.seeded_sampling import prompt_seed
from orpo_cli.model.model_source import ModelSource
from orpo_cli.model.weight_files import BaseDigests
from orpo_cli.recipe.schema import ModelSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class VllmBackend(FixedBatches):
    """Generation with vLLM. ``source`` is the base of ``adapter``, or a model of its own."""

    prompts_per_batch = 512

    def __init__(
        self, source: ModelSource[ModelSection], adapter: Path | None, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        check_vllm_installed()
        self.source = source
        self.adapter = adapter
        self.tokenizer = tokenizer
        configured = source.generation_config().eos_token_id
        stops = {*(configured if isinstance(configured, list) else [configured]), tokenizer.eos_token_id}
        self.stops = sorted((stops | PromptBuilder(tokenizer, plain=False).end_token_ids) - {None})

    def settings(self) -> dict[str, Any]:
        """Weights, adapter and end tokens."""
        with BaseDigests(self.source) as digests:
            weights = digests.result()
        adapter = None if self.adapter is None else file_xxh3(self.adapter / "adapter_model.safetensors")
        return {"backend": "vllm", "weights": [weights, adapter], "stop_token_ids": self.stops}

    def environment(self) -> dict[str, Any]:
        """Version."""
        return {"vllm": version("vllm")}

    @contextmanager
    def completing(
        self, variant: Variant, prompts: Sequence[Prompt], sampling: SamplingParams
    ) -> Iterator[CompleteBatch]:
        """Load the model once for both variants; the base is the model without its adapter."""
        import vllm
        from vllm.lora.request import LoRARequest

        if not hasattr(self, "_engine"):
            lora = {} if self.adapter is None else {"enable_lora": True, "max_lora_rank": _rank(self.adapter)}
            section, is_on_hub = self.source.section, self.source.location.kind == "hub"
            longest = max(len(prompt.input_ids) for prompt in prompts)
            self._engine = vllm.LLM(
                model=self.source.pretrained_name,
                revision=section.model_revision if is_on_hub else None,
                trust_remote_code=section.trust_remote_code,
                seed=0,
                max_model_len=longest + sampling.max_new_tokens,
                generation_config="vllm",
                **lora,
            )
        use_adapter = self.adapter is not None and variant != "base"
        request = LoRARequest("adapter", 1, str(self.adapter)) if use_adapter else None

        def complete(batch: list[int]) -> list[Completion]:
            outputs = self._engine.generate(
                [{"prompt_token_ids": prompts[index].input_ids} for index in batch],
                [
                    vllm.SamplingParams(
                        max_tokens=sampling.max_new_tokens,
                        temperature=sampling.temperature,
                        top_p=sampling.top_p,
                        seed=None if sampling.seed is None else prompt_seed(sampling.seed, index) & 0x7FFFFFFF,
                        stop_token_ids=self.stops,
                    )
                    for index in batch
                ],
                lora_request=request,
                use_tqdm=False,
            )
            answers = [output.outputs[0] for output in outputs]
            return [Completion(each.text, len(each.token_ids), each.finish_reason == "stop") for each in answers]

        yield complete


def check_vllm_installed() -> None:
    """Raise MachineError where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise MachineError(
            "--backend vllm needs the package vllm, and a GPU.", remedy="pip install vllm, or leave --backend out."
        )


def _rank(adapter: Path) -> int:
    """The largest rank of the adapter's layers, as vLLM rounds it up."""
    import json

    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    if rank > 512:
        raise UsageError(
            f"vLLM applies adapters up to rank 512; this one has {rank}.", remedy="Merge it: `orpo merge RUN`."
        )
    return next(size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= rank)
