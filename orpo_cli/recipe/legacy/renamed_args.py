"""Renamed and removed training arguments: those of trl's ORPOConfig in April 2024 (trl 0.8, transformers 4.40) that no longer exist."""

from __future__ import annotations

from typing import Any

from orpo_cli.recipe.legacy.argument_policy import ArgumentPolicy
from orpo_cli.recipe.legacy.fsdp_config import WITHOUT_COUNTERPART

# Former values of `optim` and names of enum members in the library, with the current value.
RENAMED_OPTIMIZERS = {
    "adamw_hf": "adamw_torch",
    "adamw_apex_fused": "adamw_torch_fused",
    "adamw_bnb": "adamw_bnb_8bit",
    "paged_adamw": "paged_adamw_32bit",
    "lion": "lion_32bit",
    "paged_lion": "paged_lion_32bit",
}


def _if_true(value: Any) -> Any:
    """A ``convert`` function that returns ``value`` for true and refuses other values."""

    def convert(written: Any) -> Any:
        if written is not True:
            raise ValueError("must be true or false")
        return value

    return convert


def _fraction_of_steps(ratio: Any) -> float:
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < 1:
        raise ValueError("must be at least 0 and below 1, a fraction of all steps")
    return float(ratio)


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


_TOKEN = ArgumentPolicy(
    "A recipe must not contain a token.",
    "Remove it; set HF_TOKEN or run `hf auth login`.",
    noop_values=("<HUB_TOKEN>", "<PUSH_TO_HUB_TOKEN>"),
    secret=True,
)
_APEX = ArgumentPolicy(
    "Half precision uses autocast of torch; apex of NVIDIA is no longer supported.",
    "Remove it; `bf16` and `fp16` set the precision.",
    noop_values=("auto", "cuda_amp", "cpu_amp", "amp"),
)
_NO_TPU = "orpo-cli trains on CPUs, CUDA GPUs and Apple GPUs, not on TPUs."

RENAMED_ARGS = {
    "_n_gpu": ArgumentPolicy(
        "It is the number of GPUs of the machine, not a setting; `launch` sets how many are used.", ignored=True
    ),
    "adafactor": ArgumentPolicy(
        "It is now a value of `optim`.",
        noop_values=(False,),
        new_path="training.optim",
        convert=_if_true("adafactor"),
    ),
    "dispatch_batches": ArgumentPolicy(
        "It is now a key of `accelerator_config`.", new_path="training.accelerator_config.dispatch_batches"
    ),
    "evaluation_strategy": ArgumentPolicy("The current name is `eval_strategy`.", new_path="training.eval_strategy"),
    "fp16_backend": _APEX,
    "fp16_opt_level": ArgumentPolicy(
        "It was a level of NVIDIA's apex, which is no longer supported.", "Remove it.", noop_values=("O1",)
    ),
    "fsdp_min_num_params": ArgumentPolicy(WITHOUT_COUNTERPART["min_num_params"], "Remove it.", noop_values=(0,)),
    "fsdp_transformer_layer_cls_to_wrap": ArgumentPolicy(
        "It is now a key of `launch.fsdp_config`.",
        new_path="launch.fsdp_config.transformer_layer_cls_to_wrap",
        convert=_as_list,
    ),
    "group_by_length": ArgumentPolicy(
        "It is now a value of `train_sampling_strategy`.",
        noop_values=(False,),
        new_path="training.train_sampling_strategy",
        convert=_if_true("group_by_length"),
    ),
    "half_precision_backend": _APEX,
    "include_inputs_for_metrics": ArgumentPolicy(
        "Evaluations have no metric function that could use the inputs.",
        "Remove it; `orpo eval` evaluates a run.",
        noop_values=(False,),
    ),
    "include_tokens_per_second": ArgumentPolicy("Tokens per second are always logged.", ignored=True),
    "jit_mode_eval": ArgumentPolicy(
        "It compiled the model for inference only and was removed.",
        "Remove it, or use `torch_compile: true`, which also compiles training.",
        noop_values=(False,),
    ),
    "label_pad_token_id": ArgumentPolicy(
        "Labels are always padded with -100, as the loss expects.", "Remove it.", noop_values=(-100,)
    ),
    "logging_dir": ArgumentPolicy(
        "The libraries now read the environment variable TENSORBOARD_LOGGING_DIR, which orpo-cli sets from it.",
        supported=True,
        noop_pattern=r"(.*/)?runs/[A-Z][a-z]{2}\d\d_\d\d-\d\d-\d\d_.+",  # the default
    ),
    "max_prompt_length": ArgumentPolicy(
        "It is a setting of the `dataset` section.", new_path="dataset.max_prompt_length"
    ),
    "mp_parameters": ArgumentPolicy(
        "transformers removed SageMaker's model parallelism.", "Remove it.", noop_values=("",)
    ),
    "no_cuda": ArgumentPolicy(
        "The current name is `use_cpu`.",
        noop_values=(False,),
        new_path="training.use_cpu",
        overwritable_values=(False,),
    ),
    "overwrite_output_dir": ArgumentPolicy(
        "A run is never overwritten.", "Remove the directory, or choose another `output_dir`.", noop_values=(False,)
    ),
    "past_index": ArgumentPolicy("Models trained with ORPO have no past states.", "Remove it.", noop_values=(-1,)),
    "push_to_hub_model_id": ArgumentPolicy("It is the repository to push to.", new_path="hub.repo_id"),
    "push_to_hub_organization": ArgumentPolicy(
        "It is the namespace of `hub.repo_id`.", "Write `hub.repo_id` as ORGANIZATION/NAME."
    ),
    "push_to_hub_token": _TOKEN,
    "ray_scope": ArgumentPolicy(
        "It configured hyperparameter search with Ray, which orpo-cli does not support.",
        "Remove it.",
        noop_values=("last",),
    ),
    "save_safetensors": ArgumentPolicy("Weights are always saved as safetensors.", "Remove it.", noop_values=(True,)),
    "split_batches": ArgumentPolicy(
        "It is now a key of `accelerator_config`.",
        noop_values=(False,),
        new_path="training.accelerator_config.split_batches",
        overwritable_values=(False,),
    ),
    "torchdynamo": ArgumentPolicy(
        "The current name is `torch_compile_backend`.", new_path="training.torch_compile_backend"
    ),
    "tpu_metrics_debug": ArgumentPolicy(_NO_TPU, "Remove it.", noop_values=(False,)),
    "tpu_num_cores": ArgumentPolicy(_NO_TPU, "Remove it."),
    "truncation_mode": ArgumentPolicy("It is a setting of the `dataset` section.", new_path="dataset.truncation_mode"),
    "use_ipex": ArgumentPolicy(
        "Intel's extension is now part of torch.",
        "Remove it; `bf16: true` uses the instructions of the processor.",
        noop_values=(False,),
    ),
    "use_legacy_prediction_loop": ArgumentPolicy("The old loop was removed.", "Remove it.", noop_values=(False,)),
    "use_mps_device": ArgumentPolicy("An Apple GPU is used if there is one; `use_cpu` disables it.", ignored=True),
    "warmup_ratio": ArgumentPolicy(
        "A value of `warmup_steps` below 1 is now a fraction of all steps.",
        noop_values=(0,),
        new_path="training.warmup_steps",
        convert=_fraction_of_steps,
        overwritable_values=(0,),
    ),
}
