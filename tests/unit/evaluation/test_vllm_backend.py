"""What orpo-cli gives to vLLM, by an imitation of its interface: vLLM itself needs a GPU and runs in no test."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from support.tiny_eval_run import make_eval_run
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import GenerationConfig, PreTrainedTokenizerFast

from orpo_cli.errors import UsageError
from orpo_cli.evaluation.generation import SamplingParams
from orpo_cli.evaluation.prompts import Prompt
from orpo_cli.evaluation.vllm_backend import VllmBackend
from orpo_cli.model.model_source import ModelSource
from orpo_cli.recipe.schema import ModelSection
from orpo_cli.report.console import Console
from orpo_cli.workflows.generate import GenerateRequest, generate_answers


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The keyword arguments of each ``vllm.LLM``, whose answers are one token."""
    made: list[dict[str, Any]] = []

    class LLM:
        def __init__(self, **options: Any) -> None:
            made.append(options)

        def generate(self, prompts: list[Any], *_: Any, **__: Any) -> list[Any]:
            answer = SimpleNamespace(text=f"answer of engine {len(made)}", token_ids=[1], finish_reason="stop")
            return [SimpleNamespace(outputs=[answer]) for _ in prompts]

    vllm, lora, request = (ModuleType(name) for name in ("vllm", "vllm.lora", "vllm.lora.request"))
    vllm.__spec__ = ModuleSpec("vllm", None)
    vllm.LLM, vllm.SamplingParams, request.LoRARequest = LLM, SimpleNamespace, SimpleNamespace  # type: ignore[attr-defined]
    for module in (vllm, lora, request):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("orpo_cli.evaluation.vllm_backend.version", lambda _: "1.0")
    return made


def test_the_base_of_a_run_is_loaded_as_its_recipe_says(
    engines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelSource, "generation_config", lambda _: GenerationConfig(eos_token_id=1))
    words = Tokenizer(WordLevel({"<eos>": 1, "a": 2}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>")
    section = ModelSection(model_name_or_path="some/model", model_revision="v2", trust_remote_code=True)
    backend = VllmBackend(ModelSource(section), None, tokenizer)
    with backend.completing("model", [Prompt("a", [2])], SamplingParams()) as complete:
        assert [each.text for each in complete([0])] == ["answer of engine 1"]
    (options,) = engines
    assert (options["model"], options["revision"], options["trust_remote_code"]) == ("some/model", "v2", True)


def test_answers_of_a_run_that_trained_all_weights_are_of_these_weights(
    engines: list[dict[str, Any]], tmp_path: Path
) -> None:
    run, console = make_eval_run(tmp_path, full=True), Console(quiet=True)
    request = GenerateRequest(["Why?"], output=tmp_path / "answers.jsonl", backend="vllm")
    for _ in range(2):  # the second time nothing is generated
        generate_answers(str(run.root), request, SamplingParams(), console)
        assert [options["model"] for options in engines] == [str(run.model)]
    weights = run.model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UsageError, match=r"begun with other settings:\n  weights"):
        generate_answers(str(run.root), request, SamplingParams(), console)


def test_a_run_keeps_its_chat_template(engines: list[dict[str, Any]], tmp_path: Path) -> None:
    run = make_eval_run(tmp_path)
    request = GenerateRequest(["Why?"], chat_template="chatml", backend="vllm")
    with pytest.raises(UsageError, match="--chat-template does nothing for the run"):
        generate_answers(str(run.root), request, SamplingParams(), Console(quiet=True))
    assert engines == []
