"""What is looked at in an exported folder that transformers loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import UsageError
from orpo_cli.export.export_record import Checklist
from orpo_cli.export.reference_logits import EXPORT_TOLERANCE, TOLERANCE_16_BIT, ReferenceLogits, token_ids
from orpo_cli.json_files import read_json_object
from orpo_cli.verify.logits import Difference, compare_logits, compute_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


def check_folder(folder: Path, known: ReferenceLogits, checklist: Checklist, *, dtype: str, bits: int | None) -> None:
    """Configuration, end tokens, template, tokenizer and files; ``bits`` is what bitsandbytes keeps a weight in, if it does."""
    from orpo_cli.model.tokenizer import load_saved_tokenizer

    config = read_json_object(folder / "config.json")
    architecture = ", ".join(config.get("architectures") or ["no architecture"])
    stored = config.get("dtype") or (config.get("text_config") or {}).get("dtype")
    checklist.check("config", bool(config.get("architectures")) and stored == dtype, f"{architecture}, {stored}")
    checklist.check(*_quantization(config.get("quantization_config"), bits))
    checklist.check(*_end_tokens(folder, known))
    tokenizer = load_saved_tokenizer(folder, trust_remote_code=False)
    same = tokenizer.chat_template == known.tokenizer.chat_template
    words = "the model's own" if known.tokenizer.chat_template else "none, as in the model"
    checklist.check("chat template", same, words if same else "another one than the model's")
    alike = token_ids(tokenizer, known.prompt_texts) == [ids[0].tolist() for ids in known.prompt_ids]
    count = len(known.prompt_texts)
    checklist.check("tokenizer", alike, f"reads {count} texts {'as' if alike else 'NOT as'} the model's does")
    checklist.check(*tokenizer_round_trip(known))
    pickles = sorted(path.name for pattern in PICKLE_PATTERNS for path in folder.glob(pattern))
    shards = len(list(folder.glob("*.safetensors")))
    found = f"and {', '.join(pickles)}" if pickles else "no pickles"
    checklist.check("safetensors only", shards > 0 and not pickles, f"{shards} file{'s' * (shards != 1)}, {found}")


def _quantization(section: Any, bits: int | None) -> tuple[str, bool, str]:
    name = "quantization config"
    if bits is None:
        return name, section is None, "none" if section is None else f"a stray one: {section.get('quant_method')}"
    right = (
        isinstance(section, dict) and section.get("quant_method") == "bitsandbytes" and section[f"load_in_{bits}bit"]
    )
    return name, bool(right), f"bitsandbytes, {bits} bits" if right else f"not that of {bits} bits"


def _end_tokens(folder: Path, known: ReferenceLogits) -> tuple[str, bool, str]:
    """Every token that ends an answer is in generation_config.json, which is where each program looks."""
    path = folder / "generation_config.json"
    try:
        found = read_json_object(path).get("eos_token_id")
    except UsageError:
        found = None
    ids = [each for each in (found if isinstance(found, list) else [found]) if each is not None]
    missing = [known.tokenizer.convert_ids_to_tokens(each) for each in known.eos_token_ids if each not in ids]
    tokens = ", ".join(map(str, known.tokenizer.convert_ids_to_tokens(ids)))
    if not known.eos_token_ids:
        return "end tokens", False, "the model has none, and would never stop"
    return "end tokens", not missing, tokens if not missing else f"{', '.join(missing)} is missing in {path.name}"


def tokenizer_round_trip(known: ReferenceLogits) -> tuple[str, bool, str]:
    """Whether the tokens of the prompts spell the prompts again. Told, and no fault: some tokenizers normalize."""
    texts = [known.tokenizer.decode(ids[0], skip_special_tokens=False) for ids in known.prompt_ids]
    kept = sum(text.strip() == rendered.strip() for text, rendered in zip(texts, known.prompt_texts, strict=True))
    return "tokenizer round trip", kept > 0, f"{kept} of {len(texts)} texts come back as they were"


def check_logits(
    name: str, model: PreTrainedModel, known: ReferenceLogits, checklist: Checklist, tolerance: str
) -> Difference:
    """Compare the logits of what was exported with the model's, on all prompts."""
    difference = compare_logits(known.logits, compute_logits(model, known.prompt_ids))
    exact = known.dtype == "float32" or tolerance not in ("float32", "float16", "bfloat16")
    limit = EXPORT_TOLERANCE[tolerance] if exact else TOLERANCE_16_BIT
    passed = limit.allows(difference)
    found = (
        f"within {difference.max_absolute:.2g} of the model's (relative {difference.relative:.2g}), same top token at "
        f"{difference.same_argmax:.2%} of positions, {len(known.prompt_ids)} prompts"
    )
    checklist.check(name, passed, found if passed else f"{difference.text()}; allowed is {limit.text()}")
    return difference
