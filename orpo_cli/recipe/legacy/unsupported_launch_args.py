"""Unsupported launch arguments: settings of accelerate's launcher that another section or orpo-cli itself has."""

from __future__ import annotations

from orpo_cli.recipe.legacy.argument_policy import ArgumentPolicy

_ONE_LAUNCHER = "orpo-cli starts the processes itself."
_NO_TPU = ArgumentPolicy("orpo-cli does not train on TPUs.", "Remove it.")
_NO_MPI = ArgumentPolicy(_ONE_LAUNCHER, "Remove it.")
_PARALLELISM = ArgumentPolicy(
    "Processes share the pairs of a step, and with FSDP or DeepSpeed the weights; tensor, pipeline, context and expert "
    "parallelism are not supported.",
    "Use `strategy: fsdp` for a model that does not fit on one GPU.",
)
_DYNAMO = ArgumentPolicy(
    "It is a training argument.", "Use `training.torch_compile`, `torch_compile_backend` and `torch_compile_mode`."
)

UNSUPPORTED_LAUNCH_ARGS = {
    "mixed_precision": ArgumentPolicy("It is a training argument.", "Use `training.bf16` or `training.fp16`."),
    "gradient_accumulation_steps": ArgumentPolicy(
        "It is a training argument.", "Use `training.gradient_accumulation_steps`."
    ),
    "gradient_clipping": ArgumentPolicy("It is a training argument.", "Use `training.max_grad_norm`."),
    "use_cpu": ArgumentPolicy("It is a training argument.", "Use `training.use_cpu`."),
    "cpu": ArgumentPolicy("It is a training argument.", "Use `training.use_cpu`."),
    "debug": ArgumentPolicy("It checks collective operations of accelerate.", "Set ACCELERATE_DEBUG_MODE=1."),
    "distributed_type": ArgumentPolicy("It is `strategy` here.", "Use `strategy`: ddp, fsdp or deepspeed."),
    "multi_gpu": ArgumentPolicy("It is `strategy` here.", "Use `strategy: ddp`, or leave it out."),
    "use_fsdp": ArgumentPolicy("It is `strategy` here.", "Use `strategy: fsdp`."),
    "use_deepspeed": ArgumentPolicy("It is `strategy` here.", "Use `strategy: deepspeed`."),
    "fsdp_version": ArgumentPolicy("FSDP 2 is always used.", "Remove it."),
    "zero_stage": ArgumentPolicy(
        "It is part of DeepSpeed's configuration.", "Use `deepspeed_config`: {zero_optimization: {stage: 2}}."
    ),
    "deepspeed_config_file": ArgumentPolicy("It is `deepspeed_config` here.", "Write the path to `deepspeed_config`."),
    "deepspeed_multinode_launcher": ArgumentPolicy(_ONE_LAUNCHER, "Use `num_machines` and start `orpo train` on each."),
    "deepspeed_hostfile": ArgumentPolicy(_ONE_LAUNCHER, "Use `num_machines` and start `orpo train` on each."),
    "log_dir": ArgumentPolicy("The run directory has the logs.", "Remove it."),
    "tee": ArgumentPolicy("The run directory has the logs.", "Remove it."),
    "max_restarts": ArgumentPolicy(
        "A restarted process would start again from the base model.", "Use `orpo train RECIPE --resume auto`."
    ),
    "rdzv_backend": ArgumentPolicy("The ranks of the machines are fixed: it is always static.", "Remove it."),
    "same_network": ArgumentPolicy("Machine 0 is always reached at `main_process_ip`.", "Remove it."),
    "main_training_function": ArgumentPolicy(_ONE_LAUNCHER, "Remove it."),
    "compute_environment": ArgumentPolicy(_ONE_LAUNCHER, "Remove it."),
    "downcast_bf16": _NO_TPU,
    **dict.fromkeys(("tpu", "tpu_name", "tpu_zone", "tpu_use_cluster", "tpu_use_sudo", "tpu_vm", "tpu_env"), _NO_TPU),
    **dict.fromkeys(
        ("dynamo_config", "dynamo_backend", "dynamo_mode", "dynamo_use_fullgraph", "dynamo_use_dynamic"), _DYNAMO
    ),
    **dict.fromkeys(
        ("megatron_lm_config", "use_megatron_lm", "parallelism_config", "use_parallelism_config"), _PARALLELISM
    ),
    "mpirun_config": _NO_MPI,
    "fp8_config": ArgumentPolicy("Training in 8-bit floating point is not supported.", "Use `training.bf16`."),
}
