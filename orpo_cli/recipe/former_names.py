"""Training arguments of former library versions, and of this tool's own sections, that people still write under `training:`.

Each entry is the remedy that the error ends with.
"""

from __future__ import annotations

FORMER_NAMES = {
    "evaluation_strategy": "It is called `eval_strategy` today.",
    "warmup_ratio": "Write it as `warmup_steps`: a value below 1 is a share of all steps.",
    "no_cuda": "It is called `use_cpu` today.",
    "group_by_length": "Write `train_sampling_strategy: group_by_length`.",
    "include_tokens_per_second": "Tokens per second are always logged; remove it.",
    "include_inputs_for_metrics": "It is called `include_for_metrics` today.",
    "push_to_hub_token": "A token never stands in a recipe: set HF_TOKEN or run `hf auth login`.",
    "push_to_hub_model_id": "Write `hub.repo_id`, or give it to `orpo push-to-hub`.",
    "push_to_hub_organization": "Write it as the namespace of `hub.repo_id`.",
    "adafactor": "Write `optim: adafactor`.",
    "torchdynamo": "Write `torch_compile_backend`.",
    "logging_dir": "Set the environment variable TENSORBOARD_LOGGING_DIR.",
    "overwrite_output_dir": "A run is never overwritten: remove the directory, or use another output_dir.",
    "max_prompt_length": "It belongs in `dataset`.",
    "truncation_mode": "It belongs in `dataset`.",
    "label_pad_token_id": "It is always -100; remove it.",
    "fsdp_min_num_params": "Write it inside `fsdp_config`.",
    "fsdp_transformer_layer_cls_to_wrap": "Write it inside `fsdp_config`.",
    "dispatch_batches": "Write it inside `accelerator_config`.",
    "split_batches": "Write it inside `accelerator_config`.",
    "jit_mode_eval": "It is gone; `torch_compile` is what replaced it.",
    "use_mps_device": "An Apple GPU is found by itself; remove it.",
    "save_safetensors": "Weights are always saved as safetensors; remove it.",
    "alpha": "The weight of the odds ratio term is called `beta`, as in trl.",
    "lambda": "The weight of the odds ratio term is called `beta`, as in trl.",
    "lr": "It is called `learning_rate`.",
    "batch_size": "It is called `per_device_train_batch_size`.",
    "epochs": "It is called `num_train_epochs`.",
}
