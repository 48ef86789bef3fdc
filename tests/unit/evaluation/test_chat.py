"""Chat: history, reset, streaming and end tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.completions import generate_completions
from support.tiny import save_tiny_model
from support.tiny_eval_run import make_eval_run, open_target_quietly

from orpo_cli.data.pair import Message
from orpo_cli.errors import UsageError
from orpo_cli.evaluation.chat import Conversation, _CompletionStreamer
from orpo_cli.evaluation.eval_target import EvalTarget, Variant
from orpo_cli.evaluation.generation import (
    INCOMPLETE_CHARACTER,
    SamplingParams,
    decode_completion,
)
from orpo_cli.evaluation.prompts import PromptBuilder

SAMPLING = SamplingParams(max_new_tokens=12)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> EvalTarget:
    return open_target_quietly(make_eval_run(tmp_path_factory.mktemp("run")).root)


@pytest.fixture
def word_target(tmp_path: Path) -> EvalTarget:
    """A model whose random completions are complete words: the streamer keeps text until a space."""
    target = open_target_quietly(save_tiny_model(tmp_path / "model", tied=False))
    words = [index for token, index in target.tokenizer.get_vocab().items() if token[0] == "Ġ" and token[1:].isalpha()]
    head = target.model.get_output_embeddings().weight.data
    kept = head[words].clone()
    head.zero_()
    head[words] = kept
    return target


def start_conversation(
    target: EvalTarget, system: str | None = None, sampling: SamplingParams = SAMPLING
) -> Conversation:
    return Conversation(target, sampling, system=system)


def silent(_text: str) -> None:
    pass


def completion_of(target: EvalTarget, variant: Variant, *turns: tuple[str, str]) -> str:
    """Greedy completion of a full conversation, without Conversation."""
    builder = PromptBuilder(target.tokenizer, plain=False)
    prompt = builder.from_messages([Message(*turn) for turn in turns])
    with target.use_variant(variant) as model:
        return generate_completions(model, target.tokenizer, [prompt], SAMPLING, end_token_ids=builder.end_token_ids)[
            0
        ].text


@pytest.mark.parametrize("variant", ["base", "tuned"])
def test_the_second_completion_uses_the_first_turn(target: EvalTarget, variant: Variant) -> None:
    conversation = start_conversation(target, system="Be brief.")
    first = conversation.ask(variant, "Why?", silent).text
    second = conversation.ask(variant, "And then?", silent).text
    assert first == completion_of(target, variant, ("system", "Be brief."), ("user", "Why?"))
    history = [("system", "Be brief."), ("user", "Why?"), ("assistant", first), ("user", "And then?")]
    assert second == completion_of(target, variant, *history)


def test_base_and_tuned_have_separate_histories(target: EvalTarget) -> None:
    both, alone = start_conversation(target), start_conversation(target)
    for text in ("Why?", "And then?"):
        base, tuned = both.ask("base", text, silent), both.ask("tuned", text, silent)
        assert base.text != tuned.text
        assert tuned == alone.ask("tuned", text, silent)


def test_the_streamed_text_is_the_completion(target: EvalTarget) -> None:
    streamed_parts: list[str] = []
    answer = start_conversation(target).ask("tuned", "Why?", streamed_parts.append)
    assert "".join(streamed_parts) == answer.text
    assert answer.text


def test_a_character_that_the_maximum_length_cuts_is_left_out(target: EvalTarget) -> None:
    tokens = target.tokenizer.encode("red 茶", add_special_tokens=False)[:-1]
    assert target.tokenizer.decode(tokens).endswith(INCOMPLETE_CHARACTER)
    streamed_parts: list[str] = []
    streamer = _CompletionStreamer(target.tokenizer, [2], streamed_parts.append)
    for value in ([5], *([token] for token in tokens)):
        streamer.put(torch.tensor(value))
    streamer.end()
    assert decode_completion(target.tokenizer, tokens, [2]).text == "".join(streamed_parts) == "red "


def test_end_tokens_are_not_streamed(word_target: EvalTarget) -> None:
    uninterrupted: list[str] = []
    before = start_conversation(word_target).ask("model", "Why?", uninterrupted.append)
    assert not before.finished
    tokens = word_target.tokenizer(before.text, add_special_tokens=False).input_ids
    word_target.model.generation_config.eos_token_id = tokens[-1]  # an ordinary token, as if it ended a turn
    streamed_parts: list[str] = []
    answer = start_conversation(word_target).ask("model", "Why?", streamed_parts.append)
    assert answer.finished
    assert "".join(streamed_parts) == answer.text == word_target.tokenizer.decode(tokens[: tokens.index(tokens[-1])])


def test_reset_keeps_only_the_system_message(target: EvalTarget) -> None:
    conversation = start_conversation(target, system="Be brief.")
    first = conversation.ask("tuned", "Why?", silent)
    assert conversation.ask("tuned", "Why?", silent) != first, "a model that does not see the history shows nothing"
    conversation.reset()
    assert conversation.ask("tuned", "Why?", silent) == first


def test_an_interrupted_completion_stays_in_the_history(word_target: EvalTarget) -> None:
    parts: list[str] = []
    start_conversation(word_target).ask("model", "Name the rivers, please.", parts.append)
    assert len(parts) > 3, "nothing left to interrupt"
    conversation, streamed_parts = start_conversation(word_target), []

    def stop_after_two(text: str) -> None:
        streamed_parts.append(text)
        if len(streamed_parts) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversation.ask("model", "Name the rivers, please.", stop_after_two)
    streamed = "".join(streamed_parts)
    assert "".join(parts).startswith(streamed)
    assert len(streamed) < len("".join(parts))
    again = conversation.ask("model", "And?", silent).text
    turns = [("user", "Name the rivers, please."), ("assistant", streamed), ("user", "And?")]
    assert again == completion_of(word_target, "model", *turns)


def test_a_conversation_beyond_the_context_is_an_error_and_not_in_the_history(target: EvalTarget) -> None:
    conversation = start_conversation(target)
    with pytest.raises(UsageError, match="the conversation has"):
        conversation.ask("tuned", "Why? " * 60, silent)
    assert conversation.ask("tuned", "Why?", silent).text == completion_of(target, "tuned", ("user", "Why?"))


def test_sampled_conversations_repeat_with_their_seed(target: EvalTarget) -> None:
    def talk(seed: int) -> list[str]:
        conversation = start_conversation(target, sampling=SamplingParams(12, temperature=1.5, seed=seed))
        return [conversation.ask("tuned", text, silent).text for text in ("Why?", "And?")]

    assert talk(1) == talk(1) != talk(2)


def test_a_model_without_a_chat_template_cannot_chat(tmp_path: Path) -> None:
    target = open_target_quietly(save_tiny_model(tmp_path / "model"))
    target.tokenizer.chat_template = None
    with pytest.raises(UsageError, match="has no chat template") as caught:
        start_conversation(target)
    assert "--chat-template" in str(caught.value.remedy)
