"""bitsandbytes checkpoint: weights quantized to 4 bits (NF4) or 8 bits (LLM.int8), which transformers loads directly."""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.exporting.export_source import ExportSource
from orpo_cli.exporting.reference_logits import ReferenceLogits
from orpo_cli.exporting.safetensors_checkpoint import copy_model_files
from orpo_cli.model.load_errors import explain_load_errors
from orpo_cli.model.save import save_model
from orpo_cli.recipe.schema import QuantizationSection

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

BNB_BITS = {"bnb-4bit": 4, "bnb-8bit": 8}


def bnb_quantization(bits: int, dtype: str) -> QuantizationSection:
    """NF4 with double quantization, as in QLoRA, or LLM.int8."""
    values = {"load_in_4bit": True, "bnb_4bit_use_double_quant": True} if bits == 4 else {"load_in_8bit": True}
    return QuantizationSection.model_validate({**values, "bnb_4bit_compute_dtype": dtype})


def write_bnb(
    source: ExportSource, folder: Path, reference: ReferenceLogits, *, bits: int, dtype: str, max_shard_size: str
) -> list[Tensor]:
    """Quantize the model and save it in ``folder``. Returns the logits of the quantized model before it was saved."""
    from orpo_cli.verify.compare_logits import compute_logits

    # Each layer would warn "inputs will be cast to float16", which is how LLM.int8 works.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    copy_model_files(source.folder, folder)
    model = source.load(dtype=dtype, quantization=bnb_quantization(bits, dtype))
    save_model(model, reference.tokenizer, reference.eos_token_ids, folder, max_shard_size)
    logits = compute_logits(model, reference.prompt_ids)  # after saving: a forward pass on a CPU may repack the weights
    del model
    gc.collect()
    return logits


def read_bnb(source: ExportSource, folder: Path) -> PreTrainedModel:
    """Load the checkpoint with from_pretrained; its config.json contains the quantization."""
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
            module.support_avx512bf16_for_cpu = False  # CPUs with AVX512-BF16 would compute in bfloat16
    return model.eval()
