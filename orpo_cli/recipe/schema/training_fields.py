"""Every argument of trl 1.16.0's ORPOConfig (transformers 5.23.0). Generated, do not edit:

    python -m tools.generate_training_fields

A field is None where the recipe says nothing; ``LIBRARY_DEFAULTS`` holds what the library would take then, and
``GROUPS`` the order in which the reference shows them.
"""


from typing import Any, Literal

from pydantic import Field

from orpo_cli.recipe.schema.section import Section


class TrainingFields(Section):
    """trl ORPOConfig and transformers TrainingArguments, by their own names."""

    beta: float | None = Field(
        None, ge=0, description="Weight of the odds ratio term beside the likelihood of the chosen answer; the paper's lambda."
    )
    max_length: int | None = Field(
        None, ge=2, description="Longest sequence in tokens, prompt and answer together; longer answers are cut at the end."
    )
    disable_dropout: bool | None = Field(
        None, description="Set every dropout of the model to zero, that of an adapter too."
    )
    max_completion_length: int | None = Field(
        None, ge=1, description="Longest answer in tokens, of encoder-decoder models only."
    )
    padding_value: int | None = Field(
        None, description="Token id that fills up shorter sequences."
    )
    is_encoder_decoder: bool | None = Field(
        None, description="Whether the model is an encoder-decoder, where the library cannot tell."
    )
    per_device_train_batch_size: int | None = Field(
        None, ge=1, description="Pairs that one device computes at once; each is two sequences."
    )
    gradient_accumulation_steps: int | None = Field(
        None, ge=1, description="Batches whose gradients are added up before the weights change."
    )
    num_train_epochs: float | None = Field(
        None, gt=0, description="Times that the training pairs are gone through; parts of an epoch are allowed."
    )
    max_steps: int | None = Field(
        None, ge=-1, description="Stop after this many steps, whatever num_train_epochs says; -1 for no such limit."
    )
    auto_find_batch_size: bool | None = Field(
        None, description="Halve the batch after running out of memory, and start again."
    )
    learning_rate: float | None = Field(
        None, gt=0, description="The highest learning rate, reached after the warm-up."
    )
    lr_scheduler_type: Literal["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt", "reduce_lr_on_plateau", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay", "greedy"] | None = Field(
        None, description="How the learning rate moves after the warm-up."
    )
    lr_scheduler_kwargs: dict[str, Any] | str | None = Field(
        None, description="What the schedule takes besides, such as {num_cycles: 2} or {min_lr: 1.0e-6}."
    )
    warmup_steps: float | None = Field(
        None, ge=0, description="Steps in which the learning rate rises from zero; below 1, a share of all steps."
    )
    optim: Literal["adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused", "adafactor", "adamw_anyprecision", "adamw_torch_4bit", "adamw_torch_8bit", "ademamix", "sgd", "adagrad", "adamw_bnb_8bit", "adamw_8bit", "ademamix_8bit", "lion_8bit", "lion_32bit", "paged_adamw_32bit", "paged_adamw_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit", "paged_lion_32bit", "paged_lion_8bit", "rmsprop", "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit", "galore_adamw", "galore_adamw_8bit", "galore_adafactor", "galore_adamw_layerwise", "galore_adamw_8bit_layerwise", "galore_adafactor_layerwise", "lomo", "adalomo", "grokadamw", "schedule_free_radam", "schedule_free_adamw", "schedule_free_sgd", "apollo_adamw", "apollo_adamw_layerwise", "stable_adamw"] | None = Field(
        None, description="The optimizer; paged and 8-bit ones need bitsandbytes and CUDA, some others a package of their own."
    )
    optim_args: str | None = Field(
        None, description="What the optimizer takes besides, as text: key=value,key=value."
    )
    optim_target_modules: str | list[str] | None = Field(
        None, description="Modules that GaLore and APOLLO work on: names, a regular expression, or all-linear."
    )
    weight_decay: float | None = Field(
        None, ge=0, description="How much the weights are drawn to zero each step; biases and norms are left out."
    )
    adam_beta1: float | None = Field(
        None, ge=0, lt=1, description="Adam's memory of the gradient: 0 forgets at once, close to 1 remembers long."
    )
    adam_beta2: float | None = Field(
        None, ge=0, lt=1, description="Adam's memory of the squared gradient."
    )
    adam_epsilon: float | None = Field(
        None, gt=0, description="What Adam adds to its divisor so that it is never zero."
    )
    max_grad_norm: float | None = Field(
        None, ge=0, description="Longer gradients are scaled down to this norm; 0 leaves them as they are."
    )
    neftune_noise_alpha: float | None = Field(
        None, gt=0, description="Size of the noise that NEFTune adds to the embeddings in training; 5 to 15 are usual."
    )
    label_smoothing_factor: float | None = Field(
        None, description="Share of the likelihood that is spread over all tokens."
    )
    bf16: bool | None = Field(
        None, description="Compute in bfloat16 where that is safe, and keep the trained weights as they are (autocast)."
    )
    fp16: bool | None = Field(
        None, description="Compute in float16 where that is safe, with a scaled loss; for GPUs without bfloat16."
    )
    bf16_full_eval: bool | None = Field(
        None, description="Turn the whole model to bfloat16 for an evaluation outside of training."
    )
    fp16_full_eval: bool | None = Field(
        None, description="Turn the whole model to float16 for an evaluation outside of training."
    )
    tf32: bool | None = Field(
        None, description="Let float32 products of NVIDIA GPUs since Ampere round to TF32, which is faster."
    )
    activation_checkpointing: bool | None = Field(
        None, description="Compute activations again in the backward pass instead of keeping them: less memory, a fifth slower."
    )
    activation_checkpointing_kwargs: dict[str, Any] | str | None = Field(
        None, description="How: {every_n_layers: 2} for some layers only, {offload: true} to main memory, use_reentrant."
    )
    gradient_checkpointing: bool | None = Field(
        None, description="The older name of activation_checkpointing."
    )
    gradient_checkpointing_kwargs: dict[str, Any] | str | None = Field(
        None, description="The older name of activation_checkpointing_kwargs."
    )
    torch_compile: bool | None = Field(
        None, description="Compile the model with torch.compile: slow to start, faster steps where lengths are alike."
    )
    torch_compile_backend: str | None = Field(
        None, description="Compiler that torch.compile uses, inductor if not given; turns torch_compile on."
    )
    torch_compile_mode: str | None = Field(
        None, description="default, reduce-overhead or max-autotune; turns torch_compile on."
    )
    use_liger_kernel: bool | None = Field(
        None, description="Put Liger's kernels into the model."
    )
    liger_kernel_config: dict[str, Any] | None = Field(
        None, description="Which of Liger's kernels."
    )
    use_cache: bool | None = Field(
        None, description="Keep keys and values of attention, which only generating needs."
    )
    torch_empty_cache_steps: int | None = Field(
        None, ge=1, description="Give unused GPU memory back every so many steps: slower, and less of it is fragmented."
    )
    eval_strategy: Literal["no", "steps", "epoch"] | None = Field(
        None, description="When the held-out pairs are evaluated: never, every eval_steps, or after each epoch."
    )
    eval_steps: float | None = Field(
        None, gt=0, description="Steps between evaluations; below 1, a share of all steps; as logging_steps if not given."
    )
    eval_delay: float | None = Field(
        None, ge=0, description="Epochs or steps, as eval_strategy counts, before the first evaluation."
    )
    eval_on_start: bool | None = Field(
        None, description="Evaluate once before the first step, which shows early what would fail late."
    )
    per_device_eval_batch_size: int | None = Field(
        None, ge=1, description="Held-out pairs that one device computes at once."
    )
    eval_accumulation_steps: int | None = Field(
        None, ge=1, description="Move results to main memory every so many batches, to spare the GPU's."
    )
    prediction_loss_only: bool | None = Field(
        None, description="Return only losses from an evaluation."
    )
    include_for_metrics: list[str] | None = Field(
        None, description="What a metric function is given besides predictions."
    )
    batch_eval_metrics: bool | None = Field(
        None, description="Compute metrics batch by batch."
    )
    eval_do_concat_batches: bool | None = Field(
        None, description="Join the batches' results to one."
    )
    eval_use_gather_object: bool | None = Field(
        None, description="Gather results of several processes as Python objects."
    )
    generate_during_eval: bool | None = Field(
        None, description="Show answers of the model in a tracker at each evaluation."
    )
    save_strategy: Literal["no", "steps", "epoch", "best"] | None = Field(
        None, description="When a checkpoint is saved: never, every save_steps, after each epoch, or when the metric is best."
    )
    save_steps: float | None = Field(
        None, gt=0, description="Steps between checkpoints; below 1, a share of all steps."
    )
    save_total_limit: int | None = Field(
        None, ge=1, description="Keep this many checkpoints; the oldest goes first, the best one stays."
    )
    save_only_model: bool | None = Field(
        None, description="Save no optimizer state: much smaller, and the run cannot be resumed."
    )
    save_on_each_node: bool | None = Field(
        None, description="Save on every machine, where they share no disk."
    )
    load_best_model_at_end: bool | None = Field(
        None, description="The result is the checkpoint with the best metric instead of the last."
    )
    metric_for_best_model: str | None = Field(
        None, description="The metric that says which is best, such as eval_loss or eval_rewards/margins; eval_loss if not given."
    )
    greater_is_better: bool | None = Field(
        None, description="Whether more of that metric is better; if not given, unless its name ends in loss."
    )
    ignore_data_skip: bool | None = Field(
        None, description="Resume with the first pairs of the epoch instead of going to where the run stopped."
    )
    restore_callback_states_from_checkpoint: bool | None = Field(
        None, description="Resume callbacks with the state that the checkpoint holds."
    )
    enable_jit_checkpoint: bool | None = Field(
        None, description="Save a checkpoint when the process is told to end."
    )
    resume_from_checkpoint: str | None = Field(
        None, description="Checkpoint to go on from."
    )
    logging_strategy: Literal["no", "steps", "epoch"] | None = Field(
        None, description="When metrics are logged: never, every logging_steps, or after each epoch."
    )
    logging_steps: float | None = Field(
        None, gt=0, description="Steps between log lines, of which each averages over them; below 1, a share of all steps."
    )
    logging_first_step: bool | None = Field(
        None, description="Log the first step too."
    )
    logging_nan_inf_filter: bool | None = Field(
        None, description="Log a loss that is not finite as if it were none."
    )
    include_num_input_tokens_seen: str | bool | None = Field(
        None, description="Count the tokens that were trained on."
    )
    log_level: Literal["detail", "debug", "info", "warning", "error", "critical", "passive"] | None = Field(
        None, description="How much transformers says on standard error."
    )
    log_level_replica: Literal["detail", "debug", "info", "warning", "error", "critical", "passive"] | None = Field(
        None, description="The same for processes other than the first."
    )
    log_on_each_node: bool | None = Field(
        None, description="Let the first process of every machine log, not only that of the first."
    )
    disable_tqdm: bool | None = Field(
        None, description="Show no progress bars."
    )
    report_to: str | list[str] | None = Field(
        None, description="Trackers that get the metrics: wandb, tensorboard, mlflow, … or all of those installed, or none."
    )
    run_name: str | None = Field(
        None, description="The run's name in a tracker."
    )
    project: str | None = Field(
        None, description="Trackio's project."
    )
    trackio_space_id: str | None = Field(
        None, description="Hub space in which Trackio shows the run live."
    )
    trackio_bucket_id: str | None = Field(
        None, description="Hub bucket that holds the data of that space."
    )
    trackio_static_space_id: str | Literal[False] | None = Field(
        None, description="Read-only space that Trackio leaves when the run is done; false for none."
    )
    train_sampling_strategy: Literal["random", "sequential", "group_by_length", "batch_rebalance"] | None = Field(
        None, description="Order of the pairs: random, as they come, or with pairs of like length together, which wastes less padding."
    )
    length_column_name: str | None = Field(
        None, description="Column that holds the lengths for that."
    )
    dataloader_num_workers: int | None = Field(
        None, ge=0, description="Processes that make batches ahead; 0 for none but the training process."
    )
    dataloader_prefetch_factor: int | None = Field(
        None, ge=1, description="Batches that each of them makes ahead."
    )
    dataloader_persistent_workers: bool | None = Field(
        None, description="Keep them from one epoch to the next."
    )
    dataloader_multiprocessing_context: Literal["fork", "spawn", "forkserver"] | None = Field(
        None, description="How they are started."
    )
    dataloader_in_order: bool | None = Field(
        None, description="Take batches in their order, not as soon as one is ready."
    )
    dataloader_pin_memory: bool | None = Field(
        None, description="Lock batches into main memory, from which a GPU copies faster."
    )
    dataloader_drop_last: bool | None = Field(
        None, description="Leave out the last batch of an epoch where it is not full."
    )
    accelerator_config: dict[str, Any] | str | None = Field(
        None, description="How accelerate shares batches among processes: split_batches, dispatch_batches, even_batches and others."
    )
    dataset_num_proc: int | None = Field(
        None, ge=1, description="Processes that tokenize."
    )
    remove_unused_columns: bool | None = Field(
        None, description="Drop columns that the model's forward does not take."
    )
    label_names: list[str] | None = Field(
        None, description="Columns that hold labels."
    )
    seed: int | None = Field(
        None, ge=0, description="Seed of everything random in training: new weights, dropout, and the order of the pairs."
    )
    data_seed: int | None = Field(
        None, ge=0, description="Seed of the order of the pairs alone; as seed if not given."
    )
    full_determinism: bool | None = Field(
        None, description="Use only kernels that give the same bits each time: slow, for finding errors."
    )
    use_cpu: bool | None = Field(
        None, description="Train on the CPU even where there is a GPU."
    )
    average_tokens_across_devices: bool | None = Field(
        None, description="Weigh the processes of a step by their tokens."
    )
    ddp_backend: Literal["nccl", "gloo", "mpi", "xccl", "hccl", "cncl", "mccl"] | None = Field(
        None, description="How processes talk to each other; nccl on NVIDIA GPUs and gloo on CPUs if not given."
    )
    ddp_timeout: int | None = Field(
        None, ge=1, description="Seconds that a process waits for the others."
    )
    ddp_bucket_cap_mb: int | None = Field(
        None, ge=1, description="MiB of gradients that are sent at once."
    )
    ddp_find_unused_parameters: bool | None = Field(
        None, description="Look each step for weights that got no gradient; slower."
    )
    ddp_broadcast_buffers: bool | None = Field(
        None, description="Send the first process's buffers to the others before each forward pass."
    )
    ddp_static_graph: bool | None = Field(
        None, description="Promise that every step uses the same weights, which saves work."
    )
    fsdp: str | None = Field(
        None, description="Shard weights, gradients and optimizer state over the processes with torch's FSDP."
    )
    fsdp_config: dict[str, Any] | str | None = Field(
        None, description="How FSDP shards, as a mapping or the path of a JSON file."
    )
    deepspeed: dict[str, Any] | str | None = Field(
        None, description="DeepSpeed's configuration, as a mapping or the path of a JSON file."
    )
    parallelism_config: dict[str, Any] | None = Field(
        None, description="How accelerate lays out tensor, context and data parallel processes."
    )
    local_rank: int | None = Field(
        None, description="Number of this process on its machine."
    )
    debug: str | list[str] | None = Field(
        None, description="underflow_overflow stops at the first activation that is not finite and shows the layers before."
    )
    skip_memory_metrics: bool | None = Field(
        None, description="Do not measure memory in every stage; measuring slows training down."
    )
    model_init_kwargs: dict[str, Any] | str | None = Field(
        None, description="How the model is loaded."
    )
    trust_remote_code: bool | None = Field(
        None, description="Run code that comes with a model."
    )
    do_train: bool | None = Field(
        None, description="Whether a script trains."
    )
    do_eval: bool | None = Field(
        None, description="Whether a script evaluates."
    )
    do_predict: bool | None = Field(
        None, description="Whether a script predicts."
    )
    push_to_hub: bool | None = Field(
        None, description="Push the model whenever it is saved."
    )
    hub_model_id: str | None = Field(
        None, description="Repository to push to."
    )
    hub_token: str | None = Field(
        None, description="Token to push with."
    )
    hub_private_repo: bool | None = Field(
        None, description="Whether a new repository is private."
    )
    hub_strategy: Literal["end", "every_save", "checkpoint", "all_checkpoints"] | None = Field(
        None, description="What is pushed, and when."
    )
    hub_always_push: bool | None = Field(
        None, description="Push also while the push before is not done."
    )
    hub_revision: str | None = Field(
        None, description="Branch to push to."
    )


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

GROUPS: dict[str, tuple[str, ...]] = {
    "The ORPO loss": (
        "beta",
        "max_length",
        "disable_dropout",
        "max_completion_length",
        "padding_value",
        "is_encoder_decoder",
    ),
    "Batches and duration": (
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "num_train_epochs",
        "max_steps",
        "auto_find_batch_size",
    ),
    "Learning rate": (
        "learning_rate",
        "lr_scheduler_type",
        "lr_scheduler_kwargs",
        "warmup_steps",
    ),
    "Optimizer": (
        "optim",
        "optim_args",
        "optim_target_modules",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "max_grad_norm",
    ),
    "Regularization": (
        "neftune_noise_alpha",
        "label_smoothing_factor",
    ),
    "Precision": (
        "bf16",
        "fp16",
        "bf16_full_eval",
        "fp16_full_eval",
        "tf32",
    ),
    "Memory and speed": (
        "activation_checkpointing",
        "activation_checkpointing_kwargs",
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "torch_compile",
        "torch_compile_backend",
        "torch_compile_mode",
        "use_liger_kernel",
        "liger_kernel_config",
        "use_cache",
        "torch_empty_cache_steps",
    ),
    "Evaluation": (
        "eval_strategy",
        "eval_steps",
        "eval_delay",
        "eval_on_start",
        "per_device_eval_batch_size",
        "eval_accumulation_steps",
        "prediction_loss_only",
        "include_for_metrics",
        "batch_eval_metrics",
        "eval_do_concat_batches",
        "eval_use_gather_object",
        "generate_during_eval",
    ),
    "Checkpoints": (
        "save_strategy",
        "save_steps",
        "save_total_limit",
        "save_only_model",
        "save_on_each_node",
        "load_best_model_at_end",
        "metric_for_best_model",
        "greater_is_better",
        "ignore_data_skip",
        "restore_callback_states_from_checkpoint",
        "enable_jit_checkpoint",
        "resume_from_checkpoint",
    ),
    "Logging": (
        "logging_strategy",
        "logging_steps",
        "logging_first_step",
        "logging_nan_inf_filter",
        "include_num_input_tokens_seen",
        "log_level",
        "log_level_replica",
        "log_on_each_node",
        "disable_tqdm",
    ),
    "Trackers": (
        "report_to",
        "run_name",
        "project",
        "trackio_space_id",
        "trackio_bucket_id",
        "trackio_static_space_id",
    ),
    "Data loading": (
        "train_sampling_strategy",
        "length_column_name",
        "dataloader_num_workers",
        "dataloader_prefetch_factor",
        "dataloader_persistent_workers",
        "dataloader_multiprocessing_context",
        "dataloader_in_order",
        "dataloader_pin_memory",
        "dataloader_drop_last",
        "accelerator_config",
        "dataset_num_proc",
        "remove_unused_columns",
        "label_names",
    ),
    "Seeds": (
        "seed",
        "data_seed",
        "full_determinism",
    ),
    "Devices and processes": (
        "use_cpu",
        "average_tokens_across_devices",
        "ddp_backend",
        "ddp_timeout",
        "ddp_bucket_cap_mb",
        "ddp_find_unused_parameters",
        "ddp_broadcast_buffers",
        "ddp_static_graph",
        "fsdp",
        "fsdp_config",
        "deepspeed",
        "parallelism_config",
        "local_rank",
    ),
    "Debugging": (
        "debug",
        "skip_memory_metrics",
    ),
    "The model and other commands": (
        "model_init_kwargs",
        "trust_remote_code",
        "do_train",
        "do_eval",
        "do_predict",
    ),
    "The hub": (
        "push_to_hub",
        "hub_model_id",
        "hub_token",
        "hub_private_repo",
        "hub_strategy",
        "hub_always_push",
        "hub_revision",
    ),
}
