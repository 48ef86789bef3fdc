"""Which tokens end an answer: a model that is shipped without one of them never stops."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_ANSWER = "zebra crossing"


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every end token: the model's own, the tokenizer's eos, and what its chat template writes after an answer."""
    own = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = list(own) if isinstance(own, list) else [own]
    ids += [tokenizer.eos_token_id, template_end_token_id(tokenizer)]
    return list(dict.fromkeys(int(each) for each in ids if each is not None))


def template_end_token_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that the chat template writes after an assistant's answer, if it writes one."""
    if not tokenizer.chat_template:
        return None
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": _ANSWER}]
    rendered = str(tokenizer.apply_chat_template(messages, tokenize=False))
    tail = rendered.rpartition(_ANSWER)[2].strip()
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else []
    return int(ids[0]) if ids and ids[0] in tokenizer.added_tokens_decoder else None
