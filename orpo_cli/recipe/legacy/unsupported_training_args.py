"""Unsupported training arguments: arguments of the current ORPOConfig that another section, a command or orpo-cli itself sets."""

from __future__ import annotations

from orpo_cli.recipe.legacy.argument_policy import ArgumentPolicy
from orpo_cli.recipe.legacy.fsdp_config import fsdp2_config, fsdp_strategy
from orpo_cli.recipe.legacy.unsupported_launch_args import UNSUPPORTED_LAUNCH_ARGS

_NO_METRICS = "Evaluations compute losses and the metrics of ORPO, and have no other metric function."
_NO_FULL_EVAL = "During training, the library always evaluates in the precision of training."
_FSDP_DEFAULTS = {"min_num_params": 0, "xla": False, "xla_fsdp_v2": False, "xla_fsdp_grad_ckpt": False}

UNSUPPORTED_TRAINING_ARGS = {
    "output_dir": ArgumentPolicy("It is a top-level key of the recipe.", new_path="output_dir"),
    # the model
    "model_init_kwargs": ArgumentPolicy(
        "The `model` section configures how the model is loaded.", "Use the `model` section.", noop_values=({},)
    ),
    "trust_remote_code": ArgumentPolicy(
        "It is a setting of the `model` section.", noop_values=(False,), new_path="model.trust_remote_code"
    ),
    "is_encoder_decoder": ArgumentPolicy(
        "It is read from the model; orpo-cli trains decoder-only models.", "Remove it.", noop_values=(False,)
    ),
    "use_cache": ArgumentPolicy("Training steps do not use the cache.", "Remove it.", noop_values=(False,)),
    "use_liger_kernel": ArgumentPolicy(
        "Liger has no fused ORPO loss, and trl's trainer would not use it.", "Remove it.", noop_values=(False,)
    ),
    "liger_kernel_config": ArgumentPolicy("The kernels are not used.", "Remove it.", noop_values=({},)),
    # the data
    "max_completion_length": ArgumentPolicy(
        "It applies only to encoder-decoder models, which orpo-cli does not train.", "Use `max_length`."
    ),
    "padding_value": ArgumentPolicy("It is the padding token of the tokenizer.", "Remove it."),
    "remove_unused_columns": ArgumentPolicy("orpo-cli defines the columns.", ignored=True),
    "label_names": ArgumentPolicy("orpo-cli defines the columns.", "Remove it.", noop_values=([],)),
    "length_column_name": ArgumentPolicy("orpo-cli defines the columns.", "Remove it.", noop_values=("length",)),
    "dataset_num_proc": ArgumentPolicy("Data is prepared on all cores.", ignored=True),
    # the step
    "label_smoothing_factor": ArgumentPolicy("trl's ORPO loss has no label smoothing.", "Remove it.", noop_values=(0,)),
    "auto_find_batch_size": ArgumentPolicy(
        "It would change the batch size without notice.", "Set `per_device_train_batch_size`.", noop_values=(False,)
    ),
    # evaluation
    "generate_during_eval": ArgumentPolicy(
        "It shows completions in Weights & Biases only.",
        "Use `orpo generate --compare` on the run.",
        noop_values=(False,),
    ),
    "prediction_loss_only": ArgumentPolicy(_NO_METRICS, ignored=True),
    "include_for_metrics": ArgumentPolicy(_NO_METRICS, "Remove it.", noop_values=([],)),
    "batch_eval_metrics": ArgumentPolicy(_NO_METRICS, "Remove it.", noop_values=(False,)),
    "eval_do_concat_batches": ArgumentPolicy(_NO_METRICS, "Remove it.", noop_values=(True,)),
    "eval_use_gather_object": ArgumentPolicy(_NO_METRICS, "Remove it.", noop_values=(False,)),
    "bf16_full_eval": ArgumentPolicy(_NO_FULL_EVAL, "Remove it.", noop_values=(False,)),
    "fp16_full_eval": ArgumentPolicy(_NO_FULL_EVAL, "Remove it.", noop_values=(False,)),
    # progress and logging
    "disable_tqdm": ArgumentPolicy("orpo-cli shows its own progress; `--quiet` disables it.", ignored=True),
    "logging_nan_inf_filter": ArgumentPolicy("A loss that is not finite stops the run.", ignored=True),
    "include_num_input_tokens_seen": ArgumentPolicy("Tokens are always counted and logged.", ignored=True),
    # the run
    "do_train": ArgumentPolicy("`orpo train` trains.", ignored=True),
    "do_eval": ArgumentPolicy("`eval_strategy` enables evaluations.", ignored=True),
    "do_predict": ArgumentPolicy(
        "Training has no prediction step.", "Use `orpo eval` on the run.", noop_values=(False,)
    ),
    "resume_from_checkpoint": ArgumentPolicy(
        "Resuming is an option of the command line.",
        "Use `orpo train RECIPE --resume auto` or `--resume PATH`.",
        noop_values=(False,),
    ),
    "enable_jit_checkpoint": ArgumentPolicy(
        "orpo-cli saves a checkpoint on Ctrl-C and SIGTERM.", "Remove it.", noop_values=(False,)
    ),
    "local_rank": ArgumentPolicy("The launcher sets it.", ignored=True),
    "deepspeed": ArgumentPolicy("It is a setting of `launch`.", noop_values=("",), new_path="launch.deepspeed_config"),
    "fsdp": ArgumentPolicy(
        "It is the strategy of several processes.",
        noop_values=("", [], False),
        new_path="launch.strategy",
        convert=fsdp_strategy,
    ),
    "fsdp_config": ArgumentPolicy(
        "It is a setting of `launch`; settings of FSDP 1 that FSDP 2 does not need are left out.",
        noop_values=({}, _FSDP_DEFAULTS),
        new_path="launch.fsdp_config",
        convert=fsdp2_config,
    ),
    "parallelism_config": ArgumentPolicy(
        UNSUPPORTED_LAUNCH_ARGS["parallelism_config"].reason, "Remove it.", noop_values=({},)
    ),
    # the hub
    "push_to_hub": ArgumentPolicy(
        "Pushes the result, and checkpoints according to `hub_strategy`, to `hub.repo_id`; a failed push does not stop the run.",
        noop_values=(False,),
        supported=True,
    ),
    "hub_model_id": ArgumentPolicy("It is the repository to push to.", new_path="hub.repo_id"),
    "hub_private_repo": ArgumentPolicy(
        "It is set by `hub.private`; new repositories are private unless it is false.",
        noop_values=(False,),
        new_path="hub.private",
    ),
    "hub_token": ArgumentPolicy(
        "A recipe must not contain a token.",
        "Remove it; set HF_TOKEN or run `hf auth login`.",
        noop_values=("<HUB_TOKEN>",),
        secret=True,
    ),
    "hub_strategy": ArgumentPolicy(
        "`end` pushes the result; `every_save`, the default, also pushes the weights of each checkpoint; `checkpoint` also "
        "pushes the complete last checkpoint as `last-checkpoint`; `all_checkpoints` pushes every checkpoint under its name.",
        noop_values=("every_save",),
        supported=True,
    ),
    "hub_always_push": ArgumentPolicy(
        "Pushes a checkpoint even if the previous push is still in progress.", noop_values=(False,), supported=True
    ),
    "hub_revision": ArgumentPolicy("The branch to push to.", supported=True),
}
