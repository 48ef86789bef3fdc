"""Checks of an exported checkpoint: configuration, end tokens, chat template, tokenizer, files and logits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import UsageError
from orpo_cli.exporting.export_record import Checklist
from orpo_cli.exporting.reference_logits import EXPORT_TOLERANCE, TOLERANCE_16_BIT, ReferenceLogits, token_ids
from orpo_cli.json_files import read_json_object
from orpo_cli.verify.compare_logits import Difference, compare_logits, compute_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


def check_folder(
    folder: Path, reference: ReferenceLogits, checklist: Checklist, *, dtype: str, bits: int | None
) -> None:
    """Check configuration, end tokens, chat template, tokenizer and files. ``bits``: of a bitsandbytes checkpoint."""
    from orpo_cli.model.tokenizer import load_saved_tokenizer

    config = read_json_object(folder / "config.json")
    architecture = ", ".join(config.get("architectures") or ["no architecture"])
    found_dtype = config.get("dtype") or (config.get("text_config") or {}).get("dtype")
    passed = bool(config.get("architectures")) and found_dtype == dtype
    checklist.check("config", passed, f"{architecture}, {found_dtype}")
    checklist.check(*_quantization(config.get("quantization_config"), bits))
    checklist.check(*_end_tokens(folder, reference))
    tokenizer = load_saved_tokenizer(folder, trust_remote_code=False)
    same = tokenizer.chat_template == reference.tokenizer.chat_template
    expected = "the model's" if reference.tokenizer.chat_template else "none, as in the model"
    checklist.check("chat template", same, expected if same else "not the model's")
    same = token_ids(tokenizer, reference.prompt_texts) == [ids[0].tolist() for ids in reference.prompt_ids]
    count = len(reference.prompt_texts)
    checklist.check("tokenizer", same, f"the {'same' if same else 'WRONG'} token ids for {count} texts")
    checklist.check(*tokenizer_round_trip(reference))
    pickles = sorted(path.name for pattern in PICKLE_PATTERNS for path in folder.glob(pattern))
    shards = len(list(folder.glob("*.safetensors")))
    found = f"and {', '.join(pickles)}" if pickles else "no pickles"
    checklist.check("safetensors only", shards > 0 and not pickles, f"{shards} file{'s' * (shards != 1)}, {found}")


def _quantization(section: Any, bits: int | None) -> tuple[str, bool, str]:
    name = "quantization config"
    if bits is None:
        return name, section is None, "none" if section is None else f"unexpected: {section.get('quant_method')}"
    passed = (
        isinstance(section, dict) and section.get("quant_method") == "bitsandbytes" and section[f"load_in_{bits}bit"]
    )
    return name, bool(passed), f"bitsandbytes, {bits} bits" if passed else f"not bitsandbytes with {bits} bits"


def _end_tokens(folder: Path, reference: ReferenceLogits) -> tuple[str, bool, str]:
    """Whether generation_config.json, which inference programs read, has every end token."""
    path = folder / "generation_config.json"
    try:
        found = read_json_object(path).get("eos_token_id")
    except UsageError:
        found = None
    ids = [each for each in (found if isinstance(found, list) else [found]) if each is not None]
    missing = [reference.tokenizer.convert_ids_to_tokens(each) for each in reference.eos_token_ids if each not in ids]
    tokens = ", ".join(map(str, reference.tokenizer.convert_ids_to_tokens(ids)))
    if not reference.eos_token_ids:
        return "end tokens", False, "the model has none, so its answers would never end"
    return "end tokens", not missing, tokens if not missing else f"{', '.join(missing)} is missing in {path.name}"


def tokenizer_round_trip(reference: ReferenceLogits) -> tuple[str, bool, str]:
    """How many prompts are unchanged after encoding and decoding. Some tokenizers normalize, so one is enough to pass."""
    texts = [reference.tokenizer.decode(ids[0], skip_special_tokens=False) for ids in reference.prompt_ids]
    kept = sum(text.strip() == rendered.strip() for text, rendered in zip(texts, reference.prompt_texts, strict=True))
    return "tokenizer round trip", kept > 0, f"{kept} of {len(texts)} texts are unchanged"


def check_logits(
    name: str, model: PreTrainedModel, reference: ReferenceLogits, checklist: Checklist, tolerance: str
) -> Difference:
    """Compare the logits of the export with the model's, on all prompts."""
    difference = compare_logits(reference.logits, compute_logits(model, reference.prompt_ids))
    exact = reference.dtype == "float32" or tolerance not in ("float32", "float16", "bfloat16")
    limit = EXPORT_TOLERANCE[tolerance] if exact else TOLERANCE_16_BIT
    passed = limit.allows(difference)
    found = (
        f"within {difference.max_absolute:.2g} of the model's (relative {difference.relative:.2g}), same top token at "
        f"{difference.same_argmax:.2%} of positions, {len(reference.prompt_ids)} prompts"
    )
    checklist.check(name, passed, found if passed else f"{difference.text()}; allowed is {limit.text()}")
    return difference
