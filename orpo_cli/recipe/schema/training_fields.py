"""Every argument of trl 1.16.0's ORPOConfig (transformers 5.23.0). Generated, do not edit:

    python -m tools.generate_training_fields

A field is None if the recipe does not set it; ``LIBRARY_DEFAULTS`` has the value that the library then uses.
"""


from typing import Any, Literal

from pydantic import Field

from orpo_cli.recipe.schema.section import Section


class TrainingFields(Section):
    """Arguments of trl ORPOConfig and transformers TrainingArguments."""

    beta: float | None = Field(None, ge=0, description="Weight of the odds ratio term relative to the NLL of the chosen completion; lambda in the paper.")
    max_length: int | None = Field(None, ge=2, description="Maximum length of a sequence (prompt and completion) in tokens; longer completions are truncated at the end.")
    disable_dropout: bool | None = Field(None, description="Set every dropout of the model to zero, including that of an adapter.")
    max_completion_length: int | None = Field(None, ge=1, description="Maximum length of a completion in tokens, for encoder-decoder models only.")
    padding_value: int | None = Field(None, description="Token id that pads shorter sequences.")
    is_encoder_decoder: bool | None = Field(None, description="Whether the model is an encoder-decoder, if the library cannot detect it.")
    per_device_train_batch_size: int | None = Field(None, ge=1, description="Pairs per device and batch; each pair has two sequences.")
    gradient_accumulation_steps: int | None = Field(None, ge=1, description="Batches whose gradients are summed before each optimizer step.")
    num_train_epochs: float | None = Field(None, gt=0, description="Passes over the training pairs; fractions are allowed.")
    max_steps: int | None = Field(None, ge=-1, description="Stop after this many steps, regardless of num_train_epochs; -1 for no limit.")
    auto_find_batch_size: bool | None = Field(None, description="Halve the batch size and restart after running out of memory.")
    learning_rate: float | None = Field(None, gt=0, description="Peak learning rate, reached at the end of the warm-up.")
    lr_scheduler_type: Literal["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt", "reduce_lr_on_plateau", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay", "greedy"] | None = Field(None, description="Learning rate schedule after the warm-up.")
    lr_scheduler_kwargs: dict[str, Any] | str | None = Field(None, description="Further arguments of the schedule, such as {num_cycles: 2} or {min_lr: 1.0e-6}.")
    warmup_steps: float | None = Field(None, ge=0, description="Steps in which the learning rate rises from zero; a value below 1 is a fraction of all steps.")
    optim: Literal["adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused", "adafactor", "adamw_anyprecision", "adamw_torch_4bit", "adamw_torch_8bit", "ademamix", "sgd", "adagrad", "adamw_bnb_8bit", "adamw_8bit", "ademamix_8bit", "lion_8bit", "lion_32bit", "paged_adamw_32bit", "paged_adamw_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit", "paged_lion_32bit", "paged_lion_8bit", "rmsprop", "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit", "galore_adamw", "galore_adamw_8bit", "galore_adafactor", "galore_adamw_layerwise", "galore_adamw_8bit_layerwise", "galore_adafactor_layerwise", "lomo", "adalomo", "grokadamw", "schedule_free_radam", "schedule_free_adamw", "schedule_free_sgd", "apollo_adamw", "apollo_adamw_layerwise", "stable_adamw"] | None = Field(None, description="Optimizer; paged and 8-bit optimizers need bitsandbytes and CUDA, some others need their own package.")
    optim_args: str | None = Field(None, description="Further arguments of the optimizer, as text: key=value,key=value.")
    optim_target_modules: str | list[str] | None = Field(None, description="Modules that GaLore and APOLLO apply to: names, a regular expression, or all-linear.")
    weight_decay: float | None = Field(None, ge=0, description="Weight decay coefficient; biases and norms are excluded.")
    adam_beta1: float | None = Field(None, ge=0, lt=1, description="Decay rate of Adam's moving average of the gradient.")
    adam_beta2: float | None = Field(None, ge=0, lt=1, description="Decay rate of Adam's moving average of the squared gradient.")
    adam_epsilon: float | None = Field(None, gt=0, description="Constant that Adam adds to the denominator to avoid division by zero.")
    max_grad_norm: float | None = Field(None, ge=0, description="Maximum gradient norm; larger gradients are scaled down to it; 0 turns clipping off.")
    neftune_noise_alpha: float | None = Field(None, gt=0, description="Scale of the noise that NEFTune adds to the embeddings during training; 5 to 15 are usual.")
    label_smoothing_factor: float | None = Field(None, description="Fraction of the target probability that is distributed over all tokens.")
    bf16: bool | None = Field(None, description="Mixed precision with bfloat16 (autocast); the trained weights keep their data type.")
    fp16: bool | None = Field(None, description="Mixed precision with float16 and loss scaling; for GPUs without bfloat16.")
    bf16_full_eval: bool | None = Field(None, description="Convert the model to bfloat16 for an evaluation outside of training.")
    fp16_full_eval: bool | None = Field(None, description="Convert the model to float16 for an evaluation outside of training.")
    tf32: bool | None = Field(None, description="Round float32 matrix products to TF32, which is faster; NVIDIA GPUs since Ampere.")
    activation_checkpointing: bool | None = Field(None, description="Recompute activations in the backward pass to save memory; training is about a fifth slower.")
    activation_checkpointing_kwargs: dict[str, Any] | str | None = Field(None, description="Its settings: {every_n_layers: 2} for some layers only, {offload: true} to main memory, use_reentrant.")
    gradient_checkpointing: bool | None = Field(None, description="Older name of activation_checkpointing.")
    gradient_checkpointing_kwargs: dict[str, Any] | str | None = Field(None, description="Older name of activation_checkpointing_kwargs.")
    torch_compile: bool | None = Field(None, description="Compile the model with torch.compile: slow start, faster steps if sequence lengths are similar.")
    torch_compile_backend: str | None = Field(None, description="Backend of torch.compile, inductor by default; setting it turns torch_compile on.")
    torch_compile_mode: str | None = Field(None, description="default, reduce-overhead or max-autotune; setting it turns torch_compile on.")
    use_liger_kernel: bool | None = Field(None, description="Replace layers of the model with Liger kernels.")
    liger_kernel_config: dict[str, Any] | None = Field(None, description="Liger kernels to apply.")
    use_cache: bool | None = Field(None, description="Keep the key-value cache of attention, which only generation needs.")
    torch_empty_cache_steps: int | None = Field(None, ge=1, description="Release unused GPU memory after this many steps: slower, but less fragmentation.")
    eval_strategy: Literal["no", "steps", "epoch"] | None = Field(None, description="When to evaluate the held-out pairs: never, every eval_steps, or after each epoch.")
    eval_steps: float | None = Field(None, gt=0, description="Steps between evaluations; a value below 1 is a fraction of all steps; default: logging_steps.")
    eval_delay: float | None = Field(None, ge=0, description="Epochs or steps (the unit of eval_strategy) before the first evaluation.")
    eval_on_start: bool | None = Field(None, description="Evaluate before the first step, so that errors in the evaluation appear early.")
    per_device_eval_batch_size: int | None = Field(None, ge=1, description="Held-out pairs per device and batch.")
    eval_accumulation_steps: int | None = Field(None, ge=1, description="Move results to main memory after this many batches, to save GPU memory.")
    prediction_loss_only: bool | None = Field(None, description="Return only losses from an evaluation.")
    include_for_metrics: list[str] | None = Field(None, description="Additional inputs of a metric function.")
    batch_eval_metrics: bool | None = Field(None, description="Compute metrics batch by batch.")
    eval_do_concat_batches: bool | None = Field(None, description="Concatenate the results of all batches.")
    eval_use_gather_object: bool | None = Field(None, description="Gather results of several processes as Python objects.")
    generate_during_eval: bool | None = Field(None, description="Log generated completions to a tracker at each evaluation.")
    save_strategy: Literal["no", "steps", "epoch", "best"] | None = Field(None, description="When to save a checkpoint: never, every save_steps, after each epoch, or when the metric is best.")
    save_steps: float | None = Field(None, gt=0, description="Steps between checkpoints; a value below 1 is a fraction of all steps.")
    save_total_limit: int | None = Field(None, ge=1, description="Maximum number of checkpoints; the oldest is deleted first, the best is kept.")
    save_only_model: bool | None = Field(None, description="Do not save the optimizer state: much smaller checkpoints, but the run cannot be resumed.")
    save_on_each_node: bool | None = Field(None, description="Save on every node, for nodes without a shared file system.")
    load_best_model_at_end: bool | None = Field(None, description="The result is the checkpoint with the best metric instead of the last one.")
    metric_for_best_model: str | None = Field(None, description="Metric that determines the best checkpoint, such as eval_rewards/margins; default: eval_loss.")
    greater_is_better: bool | None = Field(None, description="Whether a higher metric is better; default: true unless its name ends with loss.")
    ignore_data_skip: bool | None = Field(None, description="Resume with the first pairs of the epoch instead of the pairs after the interruption.")
    restore_callback_states_from_checkpoint: bool | None = Field(None, description="Restore the state of callbacks from the checkpoint when resuming.")
    enable_jit_checkpoint: bool | None = Field(None, description="Save a checkpoint when the process receives a termination signal.")
    resume_from_checkpoint: str | None = Field(None, description="Checkpoint to resume from.")
    logging_strategy: Literal["no", "steps", "epoch"] | None = Field(None, description="When to log metrics: never, every logging_steps, or after each epoch.")
    logging_steps: float | None = Field(None, gt=0, description="Steps between log entries, which are means over these steps; a value below 1 is a fraction of all steps.")
    logging_first_step: bool | None = Field(None, description="Also log the first step.")
    logging_nan_inf_filter: bool | None = Field(None, description="Exclude losses that are not finite from the logged loss.")
    include_num_input_tokens_seen: str | bool | None = Field(None, description="Count the tokens processed in training.")
    log_level: Literal["detail", "debug", "info", "warning", "error", "critical", "passive"] | None = Field(None, description="Log level of transformers.")
    log_level_replica: Literal["detail", "debug", "info", "warning", "error", "critical", "passive"] | None = Field(None, description="Log level of all processes except the first.")
    log_on_each_node: bool | None = Field(None, description="Log on the first process of every node, not only on the first node.")
    disable_tqdm: bool | None = Field(None, description="Show no progress bars.")
    report_to: str | list[str] | None = Field(None, description="Trackers that receive the metrics: wandb, tensorboard, mlflow, …, all (all installed), or none.")
    run_name: str | None = Field(None, description="Name of the run in a tracker.")
    project: str | None = Field(None, description="Project of the run in a tracker: W&B, MLflow (experiment), Trackio, Comet.")
    trackio_space_id: str | None = Field(None, description="Hub Space in which Trackio shows the run live.")
    trackio_bucket_id: str | None = Field(None, description="Hub bucket for the data of that Space.")
    trackio_static_space_id: str | Literal[False] | None = Field(None, description="Read-only Space that Trackio creates when the run is finished; false for none.")
    train_sampling_strategy: Literal["random", "sequential", "group_by_length", "batch_rebalance"] | None = Field(None, description="Order of the pairs: random, sequential, or grouped by length, which reduces padding.")
    length_column_name: str | None = Field(None, description="Column with the lengths for grouping.")
    dataloader_num_workers: int | None = Field(None, ge=0, description="Worker processes that prepare batches; 0 to use the training process.")
    dataloader_prefetch_factor: int | None = Field(None, ge=1, description="Batches that each worker prepares in advance.")
    dataloader_persistent_workers: bool | None = Field(None, description="Keep workers alive between epochs.")
    dataloader_multiprocessing_context: Literal["fork", "spawn", "forkserver"] | None = Field(None, description="Start method of worker processes.")
    dataloader_in_order: bool | None = Field(None, description="Return batches in order, not as soon as one is ready.")
    dataloader_pin_memory: bool | None = Field(None, description="Use pinned main memory for batches, from which a GPU copies faster.")
    dataloader_drop_last: bool | None = Field(None, description="Drop the last batch of an epoch if it is not full.")
    accelerator_config: dict[str, Any] | str | None = Field(None, description="How accelerate distributes batches to processes: split_batches, dispatch_batches, even_batches and others.")
    dataset_num_proc: int | None = Field(None, ge=1, description="Processes that tokenize.")
    remove_unused_columns: bool | None = Field(None, description="Remove columns that the model's forward method does not use.")
    label_names: list[str] | None = Field(None, description="Columns with labels.")
    seed: int | None = Field(None, ge=0, lt=2**32, description="Random seed of training: new weights, dropout, and the order of the pairs.")
    data_seed: int | None = Field(None, ge=0, description="Random seed of the order of the pairs only; default: seed.")
    full_determinism: bool | None = Field(None, description="Use only deterministic kernels: slow, for debugging.")
    use_cpu: bool | None = Field(None, description="Train on the CPU even if a GPU is available.")
    average_tokens_across_devices: bool | None = Field(None, description="Weight the losses of the processes by their number of tokens.")
    ddp_backend: Literal["nccl", "gloo", "mpi", "xccl", "hccl", "cncl", "mccl"] | None = Field(None, description="Communication backend of the processes; default: nccl on NVIDIA GPUs, gloo on CPUs.")
    ddp_timeout: int | None = Field(None, ge=1, description="Seconds that a process waits for the others.")
    ddp_bucket_cap_mb: int | None = Field(None, ge=1, description="Size in MiB of the gradient buckets that are sent at once.")
    ddp_find_unused_parameters: bool | None = Field(None, description="Find parameters without a gradient in each step; slower.")
    ddp_broadcast_buffers: bool | None = Field(None, description="Broadcast the buffers of the first process before each forward pass.")
    ddp_static_graph: bool | None = Field(None, description="Declare that every step uses the same parameters, which saves work.")
    fsdp: str | None = Field(None, description="Shard weights, gradients and optimizer state across processes with torch's FSDP.")
    fsdp_config: dict[str, Any] | str | None = Field(None, description="FSDP configuration, as a mapping or the path of a JSON file.")
    deepspeed: dict[str, Any] | str | None = Field(None, description="DeepSpeed configuration, as a mapping or the path of a JSON file.")
    parallelism_config: dict[str, Any] | None = Field(None, description="accelerate's layout of tensor, context and data parallel processes.")
    local_rank: int | None = Field(None, description="Rank of this process on its node.")
    debug: str | list[str] | None = Field(None, description="underflow_overflow stops at the first activation that is not finite and reports the previous layers.")
    skip_memory_metrics: bool | None = Field(None, description="Do not measure memory in every stage; measuring slows down training.")
    model_init_kwargs: dict[str, Any] | str | None = Field(None, description="Arguments for loading the model.")
    trust_remote_code: bool | None = Field(None, description="Run code from the repository of a model.")
    do_train: bool | None = Field(None, description="Whether a script trains.")
    do_eval: bool | None = Field(None, description="Whether a script evaluates.")
    do_predict: bool | None = Field(None, description="Whether a script predicts.")
    push_to_hub: bool | None = Field(None, description="Push the model to the hub at every save.")
    hub_model_id: str | None = Field(None, description="Repository to push to.")
    hub_token: str | None = Field(None, description="Access token for the push.")
    hub_private_repo: bool | None = Field(None, description="Whether a new repository is private.")
    hub_strategy: Literal["end", "every_save", "checkpoint", "all_checkpoints"] | None = Field(None, description="What is pushed, and when.")
    hub_always_push: bool | None = Field(None, description="Push even if the previous push is still in progress.")
    hub_revision: str | None = Field(None, description="Branch to push to.")


LIBRARY_DEFAULTS: dict[str, Any] = {
    "beta": 0.1,
    "max_length": 1024,
    "disable_dropout": True,
    "max_completion_length": None,
    "padding_value": None,
    "is_encoder_decoder": None,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 3.0,
    "max_steps": -1,
    "auto_find_batch_size": False,
    "learning_rate": 1e-06,
    "lr_scheduler_type": "linear",
    "lr_scheduler_kwargs": None,
    "warmup_steps": 0,
    "optim": "adamw_torch_fused",
    "optim_args": None,
    "optim_target_modules": None,
    "weight_decay": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-08,
    "max_grad_norm": 1.0,
    "neftune_noise_alpha": None,
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
    "torch_empty_cache_steps": None,
    "eval_strategy": "no",
    "eval_steps": None,
    "eval_delay": 0,
    "eval_on_start": False,
    "per_device_eval_batch_size": 8,
    "eval_accumulation_steps": None,
    "prediction_loss_only": False,
    "include_for_metrics": [],
    "batch_eval_metrics": False,
    "eval_do_concat_batches": True,
    "eval_use_gather_object": False,
    "generate_during_eval": False,
    "save_strategy": "steps",
    "save_steps": 500,
    "save_total_limit": None,
    "save_only_model": False,
    "save_on_each_node": False,
    "load_best_model_at_end": False,
    "metric_for_best_model": None,
    "greater_is_better": None,
    "ignore_data_skip": False,
    "restore_callback_states_from_checkpoint": False,
    "enable_jit_checkpoint": False,
    "resume_from_checkpoint": None,
    "logging_strategy": "steps",
    "logging_steps": 10,
    "logging_first_step": False,
    "logging_nan_inf_filter": True,
    "include_num_input_tokens_seen": "no",
    "log_level": "passive",
    "log_level_replica": "warning",
    "log_on_each_node": True,
    "disable_tqdm": None,
    "report_to": "none",
    "run_name": None,
    "project": "huggingface",
    "trackio_space_id": None,
    "trackio_bucket_id": None,
    "trackio_static_space_id": None,
    "train_sampling_strategy": "random",
    "length_column_name": "length",
    "dataloader_num_workers": 0,
    "dataloader_prefetch_factor": None,
    "dataloader_persistent_workers": False,
    "dataloader_multiprocessing_context": None,
    "dataloader_in_order": True,
    "dataloader_pin_memory": True,
    "dataloader_drop_last": False,
    "accelerator_config": None,
    "dataset_num_proc": None,
    "remove_unused_columns": True,
    "label_names": None,
    "seed": 42,
    "data_seed": None,
    "full_determinism": False,
    "use_cpu": False,
    "average_tokens_across_devices": True,
    "ddp_backend": None,
    "ddp_timeout": 1800,
    "ddp_bucket_cap_mb": None,
    "ddp_find_unused_parameters": None,
    "ddp_broadcast_buffers": None,
    "ddp_static_graph": None,
    "fsdp": None,
    "fsdp_config": None,
    "deepspeed": None,
    "parallelism_config": None,
    "local_rank": -1,
    "debug": "",
    "skip_memory_metrics": True,
    "model_init_kwargs": None,
    "trust_remote_code": False,
    "do_train": False,
    "do_eval": False,
    "do_predict": False,
    "push_to_hub": False,
    "hub_model_id": None,
    "hub_token": None,
    "hub_private_repo": None,
    "hub_strategy": "every_save",
    "hub_always_push": False,
    "hub_revision": None,
}
