"""Checkpoints that transformers loads quantized by bitsandbytes: 4 bits (NF4) or 8 (LLM.int8)."""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.export.export_source import ExportSource
from orpo_cli.export.reference_logits import ReferenceLogits
from orpo_cli.export.safetensors_checkpoint import copy_model_files
from orpo_cli.model.load_errors import explain_load_errors
from orpo_cli.model.save import save_model
from orpo_cli.recipe.schema import QuantizationSection

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

BNB_BITS = {"bnb-4bit": 4, "bnb-8bit": 8}


def bnb_quantization(bits: int, dtype: str) -> QuantizationSection:
    """NF4 with quantized constants, as QLoRA has it; or LLM.int8."""
    values = {"load_in_4bit": True, "bnb_4bit_use_double_quant": True} if bits == 4 else {"load_in_8bit": True}
    return QuantizationSection.model_validate({**values, "bnb_4bit_compute_dtype": dtype})


def write_bnb(
    source: ExportSource, folder: Path, known: ReferenceLogits, *, bits: int, dtype: str, max_shard_size: str
) -> list[Tensor]:
    """Quantize the model into ``folder``. Returns the logits of the quantized model before it was stored."""
    from orpo_cli.model.base_model import load_base
    from orpo_cli.model.model_source import ModelSource
    from orpo_cli.verify.logits import compute_logits

    # "inputs will be cast to float16", once a layer: that is what LLM.int8 does.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    copy_model_files(source.folder, folder)
    model = load_base(ModelSource(source.section(dtype=dtype)), bnb_quantization(bits, dtype), "cpu")
    save_model(model, known.tokenizer, known.eos_token_ids, folder, max_shard_size)
    logits = compute_logits(model, known.prompt_ids)  # after storing: a forward on a CPU may repack the weights
    del model
    gc.collect()
    return logits


def read_bnb(source: ExportSource, folder: Path) -> PreTrainedModel:
    """The stored checkpoint as anyone loads it: what is quantized, and how, stands in its config.json."""
    import bitsandbytes as bnb
    from transformers import AutoModelForCausalLM

    with explain_load_errors(str(folder)):
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=source.base.trust_remote_code,
            device_map={"": "cpu"},
        )
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = (
                False  # else such CPUs compute in bfloat16, and the comparison is blurred
            )
    return model.eval()
