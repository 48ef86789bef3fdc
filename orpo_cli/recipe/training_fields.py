"""Every argument of trl 1.16.0's ORPOConfig (transformers 5.23.0). Generated, do not edit:

    python -m orpo_cli.training.argument_table

A field is None where the recipe says nothing; ``LIBRARY_DEFAULTS`` holds what the library would take then.
"""


from typing import Any, Literal

from pydantic import Field

from orpo_cli.recipe.section import Section


class TrainingFields(Section):
    """trl ORPOConfig and transformers TrainingArguments, by their own names."""

    per_device_train_batch_size: int | None = Field(None, ge=1)
    num_train_epochs: float | None = Field(None, gt=0)
    max_steps: int | None = Field(None, ge=-1)
    learning_rate: float | None = Field(None, gt=0)
    lr_scheduler_type: Literal["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt", "reduce_lr_on_plateau", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay", "greedy"] | None = Field(None)
    lr_scheduler_kwargs: dict[str, Any] | str | None = Field(None)
    warmup_steps: float | None = Field(None, ge=0)
    optim: Literal["adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused", "adafactor", "adamw_anyprecision", "adamw_torch_4bit", "adamw_torch_8bit", "ademamix", "sgd", "adagrad", "adamw_bnb_8bit", "adamw_8bit", "ademamix_8bit", "lion_8bit", "lion_32bit", "paged_adamw_32bit", "paged_adamw_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit", "paged_lion_32bit", "paged_lion_8bit", "rmsprop", "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit", "galore_adamw", "galore_adamw_8bit", "galore_adafactor", "galore_adamw_layerwise", "galore_adamw_8bit_layerwise", "galore_adafactor_layerwise", "lomo", "adalomo", "grokadamw", "schedule_free_radam", "schedule_free_adamw", "schedule_free_sgd", "apollo_adamw", "apollo_adamw_layerwise", "stable_adamw"] | None = Field(None)
    optim_args: str | None = Field(None)
    weight_decay: float | None = Field(None, ge=0)
    adam_beta1: float | None = Field(None, ge=0, lt=1)
    adam_beta2: float | None = Field(None, ge=0, lt=1)
    adam_epsilon: float | None = Field(None, gt=0)
    optim_target_modules: str | list[str] | None = Field(None)
    gradient_accumulation_steps: int | None = Field(None, ge=1)
    average_tokens_across_devices: bool | None = Field(None)
    max_grad_norm: float | None = Field(None, ge=0)
    label_smoothing_factor: float | None = Field(None)
    bf16: bool | None = Field(None)
    fp16: bool | None = Field(None)
    bf16_full_eval: bool | None = Field(None)
    fp16_full_eval: bool | None = Field(None)
    tf32: bool | None = Field(None)
    activation_checkpointing: bool | None = Field(None)
    activation_checkpointing_kwargs: dict[str, Any] | str | None = Field(None)
    gradient_checkpointing: bool | None = Field(None)
    gradient_checkpointing_kwargs: dict[str, Any] | str | None = Field(None)
    torch_compile: bool | None = Field(None)
    torch_compile_backend: str | None = Field(None)
    torch_compile_mode: str | None = Field(None)
    use_liger_kernel: bool | None = Field(None)
    liger_kernel_config: dict[str, Any] | None = Field(None)
    use_cache: bool | None = Field(None)
    neftune_noise_alpha: float | None = Field(None, gt=0)
    torch_empty_cache_steps: int | None = Field(None)
    auto_find_batch_size: bool | None = Field(None)
    logging_strategy: Literal["no", "steps", "epoch"] | None = Field(None)
    logging_steps: float | None = Field(None, gt=0)
    logging_first_step: bool | None = Field(None)
    log_on_each_node: bool | None = Field(None)
    logging_nan_inf_filter: bool | None = Field(None)
    include_num_input_tokens_seen: str | bool | None = Field(None)
    log_level: str | None = Field(None)
    log_level_replica: str | None = Field(None)
    disable_tqdm: bool | None = Field(None)
    report_to: str | list[str] | None = Field(None)
    run_name: str | None = Field(None)
    project: str | None = Field(None)
    trackio_space_id: str | None = Field(None)
    trackio_bucket_id: str | None = Field(None)
    trackio_static_space_id: str | Literal[False] | None = Field(None)
    eval_strategy: Literal["no", "steps", "epoch"] | None = Field(None)
    eval_steps: float | None = Field(None, gt=0)
    eval_delay: float | None = Field(None, ge=0)
    per_device_eval_batch_size: int | None = Field(None, ge=1)
    prediction_loss_only: bool | None = Field(None)
    eval_on_start: bool | None = Field(None)
    eval_do_concat_batches: bool | None = Field(None)
    eval_use_gather_object: bool | None = Field(None)
    eval_accumulation_steps: int | None = Field(None)
    include_for_metrics: list[str] | None = Field(None)
    batch_eval_metrics: bool | None = Field(None)
    save_only_model: bool | None = Field(None)
    save_strategy: Literal["no", "steps", "epoch", "best"] | None = Field(None)
    save_steps: float | None = Field(None, gt=0)
    save_on_each_node: bool | None = Field(None)
    save_total_limit: int | None = Field(None, ge=1)
    enable_jit_checkpoint: bool | None = Field(None)
    push_to_hub: bool | None = Field(None)
    hub_token: str | None = Field(None)
    hub_private_repo: bool | None = Field(None)
    hub_model_id: str | None = Field(None)
    hub_strategy: Literal["end", "every_save", "checkpoint", "all_checkpoints"] | None = Field(None)
    hub_always_push: bool | None = Field(None)
    hub_revision: str | None = Field(None)
    load_best_model_at_end: bool | None = Field(None)
    metric_for_best_model: str | None = Field(None)
    greater_is_better: bool | None = Field(None)
    ignore_data_skip: bool | None = Field(None)
    restore_callback_states_from_checkpoint: bool | None = Field(None)
    full_determinism: bool | None = Field(None)
    seed: int | None = Field(None, ge=0)
    data_seed: int | None = Field(None, ge=0)
    use_cpu: bool | None = Field(None)
    accelerator_config: dict[str, Any] | str | None = Field(None)
    parallelism_config: dict[str, Any] | None = Field(None)
    dataloader_drop_last: bool | None = Field(None)
    dataloader_num_workers: int | None = Field(None, ge=0)
    dataloader_pin_memory: bool | None = Field(None)
    dataloader_persistent_workers: bool | None = Field(None)
    dataloader_prefetch_factor: int | None = Field(None)
    dataloader_multiprocessing_context: str | None = Field(None)
    dataloader_in_order: bool | None = Field(None)
    remove_unused_columns: bool | None = Field(None)
    label_names: list[str] | None = Field(None)
    train_sampling_strategy: str | None = Field(None)
    length_column_name: str | None = Field(None)
    ddp_find_unused_parameters: bool | None = Field(None)
    ddp_bucket_cap_mb: int | None = Field(None)
    ddp_broadcast_buffers: bool | None = Field(None)
    ddp_static_graph: bool | None = Field(None)
    ddp_backend: str | None = Field(None)
    ddp_timeout: int | None = Field(None)
    fsdp: str | None = Field(None)
    fsdp_config: dict[str, Any] | str | None = Field(None)
    deepspeed: dict[str, Any] | str | None = Field(None)
    debug: str | list[str] | None = Field(None)
    skip_memory_metrics: bool | None = Field(None)
    do_train: bool | None = Field(None)
    do_eval: bool | None = Field(None)
    do_predict: bool | None = Field(None)
    resume_from_checkpoint: str | None = Field(None)
    local_rank: int | None = Field(None)
    max_length: int | None = Field(None, ge=2)
    max_completion_length: int | None = Field(None, ge=1)
    beta: float | None = Field(None, ge=0)
    disable_dropout: bool | None = Field(None)
    padding_value: int | None = Field(None)
    generate_during_eval: bool | None = Field(None)
    is_encoder_decoder: bool | None = Field(None)
    model_init_kwargs: dict[str, Any] | str | None = Field(None)
    trust_remote_code: bool | None = Field(None)
    dataset_num_proc: int | None = Field(None, ge=1)


LIBRARY_DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "num_train_epochs": 3.0,
    "max_steps": -1,
    "learning_rate": 1e-06,
    "lr_scheduler_type": "linear",
    "lr_scheduler_kwargs": None,
    "warmup_steps": 0,
    "optim": "adamw_torch_fused",
    "optim_args": None,
    "weight_decay": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-08,
    "optim_target_modules": None,
    "gradient_accumulation_steps": 1,
    "average_tokens_across_devices": True,
    "max_grad_norm": 1.0,
    "label_smoothing_factor": 0.0,
    "bf16": None,
    "fp16": False,
    "bf16_full_eval": False,
    "fp16_full_eval": False,
    "tf32": None,
    "activation_checkpointing": None,
    "activation_checkpointing_kwargs": None,
    "gradient_checkpointing": True,
    "gradient_checkpointing_kwargs": None,
    "torch_compile": False,
    "torch_compile_backend": None,
    "torch_compile_mode": None,
    "use_liger_kernel": False,
    "liger_kernel_config": None,
    "use_cache": False,
    "neftune_noise_alpha": None,
    "torch_empty_cache_steps": None,
    "auto_find_batch_size": False,
    "logging_strategy": "steps",
    "logging_steps": 10,
    "logging_first_step": False,
    "log_on_each_node": True,
    "logging_nan_inf_filter": True,
    "include_num_input_tokens_seen": "no",
    "log_level": "passive",
    "log_level_replica": "warning",
    "disable_tqdm": None,
    "report_to": "none",
    "run_name": None,
    "project": "huggingface",
    "trackio_space_id": None,
    "trackio_bucket_id": None,
    "trackio_static_space_id": None,
    "eval_strategy": "no",
    "eval_steps": None,
    "eval_delay": 0,
    "per_device_eval_batch_size": 8,
    "prediction_loss_only": False,
    "eval_on_start": False,
    "eval_do_concat_batches": True,
    "eval_use_gather_object": False,
    "eval_accumulation_steps": None,
    "include_for_metrics": [],
    "batch_eval_metrics": False,
    "save_only_model": False,
    "save_strategy": "steps",
    "save_steps": 500,
    "save_on_each_node": False,
    "save_total_limit": None,
    "enable_jit_checkpoint": False,
    "push_to_hub": False,
    "hub_token": None,
    "hub_private_repo": None,
    "hub_model_id": None,
    "hub_strategy": "every_save",
    "hub_always_push": False,
    "hub_revision": None,
    "load_best_model_at_end": False,
    "metric_for_best_model": None,
    "greater_is_better": None,
    "ignore_data_skip": False,
    "restore_callback_states_from_checkpoint": False,
    "full_determinism": False,
    "seed": 42,
    "data_seed": None,
    "use_cpu": False,
    "accelerator_config": None,
    "parallelism_config": None,
    "dataloader_drop_last": False,
    "dataloader_num_workers": 0,
    "dataloader_pin_memory": True,
    "dataloader_persistent_workers": False,
    "dataloader_prefetch_factor": None,
    "dataloader_multiprocessing_context": None,
    "dataloader_in_order": True,
    "remove_unused_columns": True,
    "label_names": None,
    "train_sampling_strategy": "random",
    "length_column_name": "length",
    "ddp_find_unused_parameters": None,
    "ddp_bucket_cap_mb": None,
    "ddp_broadcast_buffers": None,
    "ddp_static_graph": None,
    "ddp_backend": None,
    "ddp_timeout": 1800,
    "fsdp": None,
    "fsdp_config": None,
    "deepspeed": None,
    "debug": "",
    "skip_memory_metrics": True,
    "do_train": False,
    "do_eval": False,
    "do_predict": False,
    "resume_from_checkpoint": None,
    "local_rank": -1,
    "max_length": 1024,
    "max_completion_length": None,
    "beta": 0.1,
    "disable_dropout": True,
    "padding_value": None,
    "generate_during_eval": False,
    "is_encoder_decoder": None,
    "model_init_kwargs": None,
    "trust_remote_code": False,
    "dataset_num_proc": None,
}
