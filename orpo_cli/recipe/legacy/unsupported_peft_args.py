"""Unsupported arguments of peft.LoraConfig and BitsAndBytesConfig, each with the reason.

A test compares them with the pinned libraries: each argument is either in the schema or here.
"""

from __future__ import annotations

from orpo_cli.recipe.legacy.argument_policy import ArgumentPolicy

_SET = "orpo-cli sets it"
_DATA = "its initialization needs passes over the data before training, which this version does not support"
_DATA_REMEDY = "Use init_lora_weights: pissa, olora or orthogonal, which need only the weights."
_LOSS = "it adds terms to the loss, but the loss must be that of ORPO"

LORA = {
    "task_type": ArgumentPolicy(_SET, "Remove it: it is CAUSAL_LM."),
    "peft_type": ArgumentPolicy(_SET, "Remove it: it is LORA."),
    "auto_mapping": ArgumentPolicy(_SET, "Remove it."),
    "peft_version": ArgumentPolicy("peft writes it", "Remove it."),
    "base_model_name_or_path": ArgumentPolicy(
        "the `model` section sets the base model", "Remove it, or set model.model_name_or_path."
    ),
    "revision": ArgumentPolicy("the `model` section sets the base model", "Remove it, or set model.model_revision."),
    "inference_mode": ArgumentPolicy("the adapter is trained", "Remove it."),
    "runtime_config": ArgumentPolicy(
        "it applies only to adapters that are initialized partly on the CPU", "Remove it."
    ),
    "eva_config": ArgumentPolicy(_DATA, _DATA_REMEDY),
    "corda_config": ArgumentPolicy(_DATA, _DATA_REMEDY),
    "lora_ga_config": ArgumentPolicy(_DATA, _DATA_REMEDY),
    "monteclora_config": ArgumentPolicy(_LOSS, "Remove it."),
    "kasa_config": ArgumentPolicy(_LOSS, "Remove it."),
    "arrow_config": ArgumentPolicy("it routes between trained adapters", "Remove it."),
    "alora_invocation_tokens": ArgumentPolicy(
        "such an adapter is active only for a part of a sequence, so it cannot be merged", "Remove it."
    ),
    "use_qalora": ArgumentPolicy("it needs GPTQ, but the base model is quantized by bitsandbytes", "Remove it."),
    "qalora_group_size": ArgumentPolicy("it needs GPTQ, but the base model is quantized by bitsandbytes", "Remove it."),
    "megatron_config": ArgumentPolicy("models of transformers have no Megatron layers", "Remove it."),
    "megatron_core": ArgumentPolicy("models of transformers have no Megatron layers", "Remove it."),
}
QUANTIZATION = {
    "llm_int8_enable_fp32_cpu_offload": ArgumentPolicy(
        "it keeps weights on the CPU, where a model on a GPU cannot be trained", "Remove it."
    ),
    "llm_int8_has_fp16_weight": ArgumentPolicy(
        "it trains with other weights than those that a merge would read", "Remove it, or leave quantization out."
    ),
    "quant_method": ArgumentPolicy(_SET, "Remove it: it is bitsandbytes."),
}
UNSUPPORTED_PEFT_ARGS = {"lora": LORA, "quantization": QUANTIZATION}
# Unsupported values of init_lora_weights, by prefix.
UNSUPPORTED_LORA_INITS = {
    "eva": ArgumentPolicy(_DATA, _DATA_REMEDY),
    "corda": ArgumentPolicy(_DATA, _DATA_REMEDY),
    "lora_ga": ArgumentPolicy(_DATA, _DATA_REMEDY),
    "pissa_niter_": ArgumentPolicy(
        "it changes the base by a random decomposition that differs at each load of the adapter, so the adapter would not "
        "match",
        "Use pissa, whose decomposition is exact.",
    ),
}
