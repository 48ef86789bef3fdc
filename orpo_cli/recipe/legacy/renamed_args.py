"""Renamed and removed training arguments: those of trl's ORPOConfig in April 2024 (trl 0.8, transformers 4.40) that no longer exist."""

from __future__ import annotations

from typing import Any

from orpo_cli.recipe.legacy.argument_policy import ArgumentPolicy

# Values of `optim` that are gone or are a member's name in the library, and the value that does the same.
RENAMED_OPTIMIZERS = {
    "adamw_hf": "adamw_torch",
    "adamw_apex_fused": "adamw_torch_fused",
    "adamw_bnb": "adamw_bnb_8bit",
    "paged_adamw": "paged_adamw_32bit",
    "lion": "lion_32bit",
    "paged_lion": "paged_lion_32bit",
}


def _if_true(value: Any) -> Any:
    """A ``convert`` that makes ``value`` of true."""

    def convert(written: Any) -> Any:
        if written is not True:
            raise ValueError("must be true or false")
        return value

    return convert


def _fraction_of_steps(ratio: Any) -> float:
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < 1:
        raise ValueError("must be at least 0 and below 1, a share of all steps")
    return float(ratio)


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


_TOKEN = ArgumentPolicy(
    "A token never stands in a recipe.",
    "Remove it; set HF_TOKEN or run `hf auth login`.",
    noop_values=("<HUB_TOKEN>", "<PUSH_TO_HUB_TOKEN>"),
    secret=True,
)
_APEX = ArgumentPolicy(
    "Half precision is torch's own autocast; NVIDIA's apex is no longer used.",
    "Remove it; `bf16` and `fp16` choose the precision.",
    noop_values=("auto", "cuda_amp", "cpu_amp", "amp"),
)
_NO_TPU = "This tool trains on CPU, CUDA and Apple GPUs, not on TPUs."

RENAMED_ARGS = {
    "_n_gpu": ArgumentPolicy(
        "It is what was found on the machine, not a setting; `launch` says how many are used.", ignored=True
    ),
    "adafactor": ArgumentPolicy(
        "It is a value of `optim` today.",
        noop_values=(False,),
        new_path="training.optim",
        convert=_if_true("adafactor"),
    ),
    "dispatch_batches": ArgumentPolicy(
        "It is a key of `accelerator_config` today.", new_path="training.accelerator_config.dispatch_batches"
    ),
    "evaluation_strategy": ArgumentPolicy("It is called `eval_strategy` today.", new_path="training.eval_strategy"),
    "fp16_backend": _APEX,
    "fp16_opt_level": ArgumentPolicy(
        "It was a level of NVIDIA's apex, which is no longer used.", "Remove it.", noop_values=("O1",)
    ),
    "fsdp_min_num_params": ArgumentPolicy(
        "It is a key of `fsdp_config` today.",
        noop_values=(0,),
        new_path="training.fsdp_config.min_num_params",
        overwritable_values=(0,),
    ),
    "fsdp_transformer_layer_cls_to_wrap": ArgumentPolicy(
        "It is a key of `fsdp_config` today.",
        new_path="training.fsdp_config.transformer_layer_cls_to_wrap",
        convert=_as_list,
    ),
    "group_by_length": ArgumentPolicy(
        "It is a value of `train_sampling_strategy` today.",
        noop_values=(False,),
        new_path="training.train_sampling_strategy",
        convert=_if_true("group_by_length"),
    ),
    "half_precision_backend": _APEX,
    "include_inputs_for_metrics": ArgumentPolicy(
        "Evaluation here has no metric function that could be given the inputs.",
        "Remove it; `orpo eval` judges a run.",
        noop_values=(False,),
    ),
    "include_tokens_per_second": ArgumentPolicy("Tokens per second are always logged.", ignored=True),
    "jit_mode_eval": ArgumentPolicy(
        "It compiled the model for inference only, and is gone.",
        "Remove it, or use `torch_compile: true`, which compiles training too.",
        noop_values=(False,),
    ),
    "label_pad_token_id": ArgumentPolicy(
        "Labels are always padded with -100, as the loss expects.", "Remove it.", noop_values=(-100,)
    ),
    "logging_dir": ArgumentPolicy(
        "The libraries take it from the environment variable TENSORBOARD_LOGGING_DIR today, which this tool sets.",
        supported=True,
        noop_pattern=r"(.*/)?runs/[A-Z][a-z]{2}\d\d_\d\d-\d\d-\d\d_.+",  # where nobody had set it
    ),
    "max_prompt_length": ArgumentPolicy("It is a setting of the data here.", new_path="dataset.max_prompt_length"),
    "mp_parameters": ArgumentPolicy(
        "SageMaker's model parallelism is no longer in transformers.", "Remove it.", noop_values=("",)
    ),
    "no_cuda": ArgumentPolicy(
        "It is called `use_cpu` today.", noop_values=(False,), new_path="training.use_cpu", overwritable_values=(False,)
    ),
    "overwrite_output_dir": ArgumentPolicy(
        "A run is never overwritten.", "Remove the directory, or choose another `output_dir`.", noop_values=(False,)
    ),
    "past_index": ArgumentPolicy("No model that ORPO trains hands past states on.", "Remove it.", noop_values=(-1,)),
    "push_to_hub_model_id": ArgumentPolicy("It says where a push goes.", new_path="hub.repo_id"),
    "push_to_hub_organization": ArgumentPolicy(
        "It is the first part of `hub.repo_id`.", "Write `hub.repo_id` as ORGANIZATION/NAME."
    ),
    "push_to_hub_token": _TOKEN,
    "ray_scope": ArgumentPolicy(
        "It belonged to hyper-parameter search with Ray, which this tool does not do.",
        "Remove it.",
        noop_values=("last",),
    ),
    "save_safetensors": ArgumentPolicy("Weights are always saved as safetensors.", "Remove it.", noop_values=(True,)),
    "split_batches": ArgumentPolicy(
        "It is a key of `accelerator_config` today.",
        noop_values=(False,),
        new_path="training.accelerator_config.split_batches",
        overwritable_values=(False,),
    ),
    "torchdynamo": ArgumentPolicy(
        "It is called `torch_compile_backend` today.", new_path="training.torch_compile_backend"
    ),
    "tpu_metrics_debug": ArgumentPolicy(_NO_TPU, "Remove it.", noop_values=(False,)),
    "tpu_num_cores": ArgumentPolicy(_NO_TPU, "Remove it."),
    "truncation_mode": ArgumentPolicy("It is a setting of the data here.", new_path="dataset.truncation_mode"),
    "use_ipex": ArgumentPolicy(
        "Intel's extension is part of torch today.",
        "Remove it; `bf16: true` uses what the processor has.",
        noop_values=(False,),
    ),
    "use_legacy_prediction_loop": ArgumentPolicy("The old loop is gone.", "Remove it.", noop_values=(False,)),
    "use_mps_device": ArgumentPolicy(
        "An Apple GPU is used where there is one; `use_cpu` turns that off.", ignored=True
    ),
    "warmup_ratio": ArgumentPolicy(
        "A value of `warmup_steps` below 1 is a share of all steps today.",
        noop_values=(0,),
        new_path="training.warmup_steps",
        convert=_fraction_of_steps,
        overwritable_values=(0,),
    ),
}
