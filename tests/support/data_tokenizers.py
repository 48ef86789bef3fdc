"""Tokenizers of several families, trained here on a few sentences, each with the template of its family."""

from __future__ import annotations

import json
from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from orpo_cli.data.chat_template import PairTexts
from orpo_cli.data.pair import Pair, RowRejected
from orpo_cli.data.pair_encoder import PairEncoder
from orpo_cli.data.tokenize import PairTokens
from orpo_cli.model.builtin_chat_templates import BUILTIN_CHAT_TEMPLATES
from support.tiny import SENTENCES, tiny_tokenizer

THINKING = (  # as Qwen3: the finished completion has an empty thinking block
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if loop.last and message['role'] == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
OPENED_THOUGHT = (  # as DeepSeek-R1: only the generation prompt starts a thinking block
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
PHI = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% else %}{{ '<|endoftext|>' }}{% endif %}"
)
PLAIN = (
    "{% for message in messages %}{{ ('Answer: ' if message['role'] == 'assistant' else 'Question: ') + message['content'] + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Answer: ' }}{% endif %}"
)
NAMES = (
    "chatml",
    "phi",
    "thinking",
    "opened_thought",
    "plain",
    "llama3",
    "gemma",
    "phi3",
    "zephyr",
    "mistral",
    "unmarked_chatml",
)


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """A tokenizer of ``NAMES``. Do not change it: it is shared."""
    if name in ("zephyr", "mistral"):
        return sentencepiece_like(BUILTIN_CHAT_TEMPLATES[name])
    if name == "llama3":
        return byte_level(
            ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
            BUILTIN_CHAT_TEMPLATES[name],
        )
    if name == "gemma":
        return byte_level(["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"], BUILTIN_CHAT_TEMPLATES[name])
    if name == "phi3":
        return byte_level(
            ["<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"], BUILTIN_CHAT_TEMPLATES[name]
        )
    if name == "unmarked_chatml":  # a base model that does not know the template's markers
        return byte_level(["<s>", "</s>"], BUILTIN_CHAT_TEMPLATES["chatml"])
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = {
        "chatml": BUILTIN_CHAT_TEMPLATES["chatml"],
        "phi": PHI,
        "thinking": THINKING,
        "plain": PLAIN,
    }.get(name, OPENED_THOUGHT)
    return tokenizer


def byte_level(special: list[str], template: str | None) -> PreTrainedTokenizerFast:
    """Byte-level BPE that puts the first special token in front of a text, as Llama 3 does; the second is the EOS."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(SENTENCES * 4, trainer)
    backend.post_processor = processors.TemplateProcessing(single=f"{special[0]} $A", special_tokens=[(special[0], 0)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=special[0],
        eos_token=special[1],
        pad_token=special[1],
        additional_special_tokens=special[2:],
    )
    tokenizer.chat_template = template
    return tokenizer


def sentencepiece_like(template: str) -> PreTrainedTokenizerFast:
    """BPE with byte fallback that puts a space before a text, and <s> in front, as Llama 2 and Mistral do."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    backend.train_from_iterator(SENTENCES * 4, trainer)
    state = json.loads(backend.to_str())
    vocabulary = state["model"]["vocab"]
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    state["model"]["byte_fallback"] = True
    backend = Tokenizer.from_str(json.dumps(state))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )
    tokenizer.chat_template = template
    return tokenizer


@cache
def encoder_of(tokenizer: PreTrainedTokenizerFast) -> PairEncoder:
    return PairEncoder(tokenizer)


def encode(tokenizer: PreTrainedTokenizerFast, pair: Pair) -> tuple[PairTexts, PairTokens]:
    """The texts and token ids of a pair. The encoder is kept: do not change the tokenizer afterwards."""
    encoder = encoder_of(tokenizer)
    (texts,) = encoder.render([pair])
    assert not isinstance(texts, RowRejected)
    return texts, encoder.tokenize([texts])[0]
