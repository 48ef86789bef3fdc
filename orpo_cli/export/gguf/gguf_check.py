"""What is looked at in a GGUF file: its metadata, and what transformers makes of its weights."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.export.checks import check_logits
from orpo_cli.export.export_record import Checklist
from orpo_cli.export.reference_logits import ReferenceLogits
from orpo_cli.model.load_errors import explain_load_errors
from orpo_cli.verify.logits import Difference

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE_OF = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "q8_0": "8 bits"}
# Tokens that llama.cpp takes for an end of turn by their text alone (llama-vocab.cpp, special_eog_ids).
LLAMA_CPP_EOG_TOKENS = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "<|end_of_text|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|tool_response>",
    "<｜end▁of▁sentence｜>", "<end_of_utterance>", "<eos>",
}  # fmt: skip


def adds_bos_token(known: ReferenceLogits) -> bool:
    """Whether llama.cpp must put the beginning-of-text token in front of a text, chats included, as the tokenizer does.

    Where a chat template writes none, the model was not trained on chats with one, and llama.cpp would add it to each. Where
    it writes one, llama.cpp does not add a second.
    """
    tokenizer = known.tokenizer
    adds_it = tokenizer.bos_token_id is not None and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    return bool(adds_it and (not tokenizer.chat_template or known.prompt_texts[0].startswith(str(tokenizer.bos_token))))


def end_of_turn_ids(known: ReferenceLogits) -> list[int]:
    """End tokens besides the EOS, those first that llama.cpp would not know for one."""
    others = [each for each in known.eos_token_ids if each != known.tokenizer.eos_token_id]
    return sorted(others, key=lambda each: known.tokenizer.convert_ids_to_tokens(each) in LLAMA_CPP_EOG_TOKENS)


def check_metadata(file: Path, known: ReferenceLogits, checklist: Checklist) -> None:
    """Architecture, vocabulary, end tokens and chat template, as they stand in the file."""
    from gguf import GGUFReader

    reader = GGUFReader(file)
    fields = reader.fields

    def value(name: str) -> Any:
        return fields[name].contents() if name in fields else None

    checklist.check(
        "GGUF", bool(value("general.architecture")), f"{value('general.architecture')}, {value('general.name')}"
    )
    tokens = value("tokenizer.ggml.tokens") or []
    vocabulary = known.tokenizer.get_vocab()
    wrong = [
        token for token, index in vocabulary.items() if index >= len(tokens) or not _is_same_token(token, tokens[index])
    ]
    found = (
        f"{len(tokens)} tokens in the model's order" if not wrong else f"{len(wrong)} tokens are others: {wrong[0]!r}"
    )
    checklist.check("vocabulary", not wrong, found)
    ids = [value(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot", "eom")]
    texts = {each: str(known.tokenizer.convert_ids_to_tokens(each)) for each in known.eos_token_ids}
    missing = [text for each, text in texts.items() if each not in ids and text not in LLAMA_CPP_EOG_TOKENS]
    words = ", ".join(texts.values()) if not missing else f"llama.cpp would not stop at {', '.join(missing)}"
    checklist.check("end tokens", bool(texts) and not missing, words or "the model has none, and would never stop")
    begins = adds_bos_token(known)
    stored = bool(value("tokenizer.ggml.add_bos_token"))
    checklist.check(
        "beginning of text", stored == begins, f"llama.cpp puts {'its token' if stored else 'none'} in front"
    )
    template, own = value("tokenizer.chat_template"), known.tokenizer.chat_template
    same = template == own
    checklist.check(
        "chat template", same, ("the model's own" if own else "none, as in the model") if same else "another"
    )


def _is_same_token(token: str, stored: str) -> bool:
    """The converter writes special tokens without the marks of spaces that a vocabulary has."""
    return token == stored or token.replace("▁", " ").strip() == stored.strip()


def readable_by_transformers(architecture: str) -> bool:
    """Whether transformers reads GGUF files of this kind (``llama``, by llama.cpp's name)."""
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    return architecture in GGUF_SUPPORTED_ARCHITECTURES


def check_weights(
    file: Path, known: ReferenceLogits, checklist: Checklist, *, gguf_type: str, attention: str
) -> Difference | None:
    """Load the file with transformers and compare its logits with the model's; None where transformers cannot read it."""
    from gguf import GGUFReader

    if known.dtype != "float32":  # which transformers makes of a GGUF file
        checklist.remark("logits", "not computed: the memory does not hold the model in float32")
        return None
    architecture = str(GGUFReader(file).fields["general.architecture"].contents())
    if not readable_by_transformers(architecture):
        checklist.remark("logits", f"not compared: transformers does not read {architecture} from GGUF")
        return None
    model = _load(file, attention)
    difference = check_logits("logits", model, known, checklist, TOLERANCE_OF.get(gguf_type, "fewer bits"))
    del model
    gc.collect()
    return difference


def _load(file: Path, attention: str) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    options = {"dtype": torch.float32, "attn_implementation": attention, "local_files_only": True}
    with explain_load_errors(str(file)):
        return AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, **options).eval()
