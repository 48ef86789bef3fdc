"""Checks of a GGUF file: its metadata, and its weights as transformers loads them."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

from orpo_cli.exporting.checks import check_logits
from orpo_cli.exporting.export_record import Checklist
from orpo_cli.exporting.reference_logits import ReferenceLogits
from orpo_cli.model.gguf import gguf_bar_of_transformers
from orpo_cli.model.load_errors import explain_load_errors
from orpo_cli.verify.compare_logits import Difference

TOLERANCE_OF = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "q8_0": "8 bits"}
# Tokens at which llama.cpp stops because of their text (llama-vocab.cpp, special_eog_ids).
LLAMA_CPP_EOG_TOKENS = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "<|end_of_text|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|tool_response>",
    "<｜end▁of▁sentence｜>", "<end_of_utterance>", "<eos>",
}  # fmt: skip


def adds_bos_token(reference: ReferenceLogits) -> bool:
    """Whether llama.cpp must add the BOS token to texts, chats included, as the tokenizer does.

    If the chat template writes no BOS token, chats in training had none, but llama.cpp would add it to each chat. If the
    template writes one, llama.cpp does not add a second.
    """
    tokenizer = reference.tokenizer
    bos_in_text = tokenizer.bos_token_id is not None and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    bos_in_chat = not tokenizer.chat_template or reference.prompt_texts[0].startswith(str(tokenizer.bos_token))
    return bool(bos_in_text and bos_in_chat)


def end_of_turn_ids(reference: ReferenceLogits) -> list[int]:
    """End tokens besides the EOS, beginning with those that llama.cpp does not recognize by their text."""
    others = [each for each in reference.eos_token_ids if each != reference.tokenizer.eos_token_id]
    return sorted(others, key=lambda each: reference.tokenizer.convert_ids_to_tokens(each) in LLAMA_CPP_EOG_TOKENS)


def check_metadata(file: Path, reference: ReferenceLogits, checklist: Checklist) -> None:
    """Check architecture, vocabulary, end tokens and chat template of the file."""
    from gguf import GGUFReader

    reader = GGUFReader(file)
    fields = reader.fields

    def value(name: str) -> Any:
        return fields[name].contents() if name in fields else None

    architecture = value("general.architecture")
    checklist.check("GGUF", bool(architecture), f"{architecture}, {value('general.name')}")
    tokens = value("tokenizer.ggml.tokens") or []
    vocabulary = reference.tokenizer.get_vocab()
    wrong = [
        token for token, index in vocabulary.items() if index >= len(tokens) or not _is_same_token(token, tokens[index])
    ]
    found = f"{len(tokens)} tokens in the model's order" if not wrong else f"{len(wrong)} tokens differ: {wrong[0]!r}"
    checklist.check("vocabulary", not wrong, found)
    ids = [value(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot", "eom")]
    texts = {each: str(reference.tokenizer.convert_ids_to_tokens(each)) for each in reference.eos_token_ids}
    missing = [text for each, text in texts.items() if each not in ids and text not in LLAMA_CPP_EOG_TOKENS]
    found = ", ".join(texts.values()) if not missing else f"llama.cpp would not stop at {', '.join(missing)}"
    passed = bool(texts) and not missing
    checklist.check("end tokens", passed, found or "the model has none, so its answers would never end")
    adds_bos = bool(value("tokenizer.ggml.add_bos_token"))
    checklist.check(
        "beginning of text",
        adds_bos == adds_bos_token(reference),
        f"llama.cpp {'adds the' if adds_bos else 'adds no'} BOS token",
    )
    expected = reference.tokenizer.chat_template
    same = value("tokenizer.chat_template") == expected
    found = "the model's" if expected else "none, as in the model"
    checklist.check("chat template", same, found if same else "not the model's")


def _is_same_token(token: str, stored: str) -> bool:
    """Whether two tokens are equal: the converter writes special tokens without the space markers of the vocabulary."""
    return token == stored or token.replace("▁", " ").strip() == stored.strip()


def check_weights(
    file: Path, reference: ReferenceLogits, checklist: Checklist, *, gguf_type: str, attention: str
) -> Difference | None:
    """Load the file with transformers and compare its logits with the model's; None if transformers cannot read it."""
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    if reference.dtype != "float32":  # the dtype in which transformers loads GGUF files
        checklist.remark("logits", "not computed: the model does not fit into memory in float32")
        return None
    architecture = str(GGUFReader(file).fields["general.architecture"].contents())
    if architecture not in GGUF_SUPPORTED_ARCHITECTURES:
        checklist.remark("logits", f"not compared: transformers does not read {architecture} from GGUF")
        return None
    options = {"dtype": torch.float32, "attn_implementation": attention, "local_files_only": True}
    with explain_load_errors(str(file)), gguf_bar_of_transformers():
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, **options).eval()
    difference = check_logits("logits", model, reference, checklist, TOLERANCE_OF.get(gguf_type, "fewer bits"))
    del model
    gc.collect()
    return difference
