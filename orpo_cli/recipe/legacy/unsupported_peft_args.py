"""Arguments of peft.LoraConfig and BitsAndBytesConfig that a recipe does not take, each with the reason.

A test compares with the pinned libraries: what they have is in the section, or here.
"""

from __future__ import annotations

from orpo_cli.recipe.legacy.argument_policy import ArgumentPolicy

_SET = "this tool sets it"
_DATA = "it starts from passes over data before training, which this version does not make"
_DATA_REMEDY = "Use init_lora_weights: pissa, olora or orthogonal, which look at the weights alone."
_LOSS = "it adds terms of its own to the loss, and the loss here is ORPO's"

LORA = {
    "task_type": ArgumentPolicy(_SET, "Remove it: it is CAUSAL_LM."),
    "peft_type": ArgumentPolicy(_SET, "Remove it: it is LORA."),
    "auto_mapping": ArgumentPolicy(_SET, "Remove it."),
    "peft_version": ArgumentPolicy("peft writes it", "Remove it."),
    "base_model_name_or_path": ArgumentPolicy(
        "`model` says which base it is", "Remove it, or set model.model_name_or_path."
    ),
    "revision": ArgumentPolicy("`model` says which base it is", "Remove it, or set model.model_revision."),
    "inference_mode": ArgumentPolicy("an adapter is trained here", "Remove it."),
    "runtime_config": ArgumentPolicy("it only concerns adapters partly held on the CPU when they start", "Remove it."),
    "eva_config": ArgumentPolicy(_DATA, _DATA_REMEDY),
    "corda_config": ArgumentPolicy(_DATA, _DATA_REMEDY),
    "lora_ga_config": ArgumentPolicy(_DATA, _DATA_REMEDY),
    "monteclora_config": ArgumentPolicy(_LOSS, "Remove it."),
    "kasa_config": ArgumentPolicy(_LOSS, "Remove it."),
    "arrow_config": ArgumentPolicy("it routes between adapters that are trained already", "Remove it."),
    "alora_invocation_tokens": ArgumentPolicy(
        "such an adapter starts within a sequence, and a model cannot hold that when merged", "Remove it."
    ),
    "use_qalora": ArgumentPolicy("it is for GPTQ, and the base here is quantized by bitsandbytes", "Remove it."),
    "qalora_group_size": ArgumentPolicy("it is for GPTQ, and the base here is quantized by bitsandbytes", "Remove it."),
    "megatron_config": ArgumentPolicy("transformers' models have no layers of Megatron", "Remove it."),
    "megatron_core": ArgumentPolicy("transformers' models have no layers of Megatron", "Remove it."),
}
QUANTIZATION = {
    "llm_int8_enable_fp32_cpu_offload": ArgumentPolicy(
        "it lets weights lie on the CPU, where a model on a GPU cannot train", "Remove it."
    ),
    "llm_int8_has_fp16_weight": ArgumentPolicy(
        "it trains on other weights than those that a merge would find", "Remove it, or leave quantization out."
    ),
    "quant_method": ArgumentPolicy(_SET, "Remove it: it is bitsandbytes."),
}
UNSUPPORTED_PEFT_ARGS = {"lora": LORA, "quantization": QUANTIZATION}
# Values of init_lora_weights that peft has and `lora:` does not take: the beginning of each, and why.
UNSUPPORTED_LORA_INITS = {
    "eva": ArgumentPolicy(_DATA, _DATA_REMEDY),
    "corda": ArgumentPolicy(_DATA, _DATA_REMEDY),
    "lora_ga": ArgumentPolicy(_DATA, _DATA_REMEDY),
    "pissa_niter_": ArgumentPolicy(
        "it changes the base by a decomposition that is drawn anew whenever the adapter is loaded, so that the adapter "
        "would not fit",
        "Use pissa, whose decomposition is exact.",
    ),
}
