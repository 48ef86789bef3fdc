"""Arguments of today's ORPOConfig that a recipe's `training:` does not set: another section or command, or this tool does."""

from __future__ import annotations

from orpo_cli.recipe.legacy.argument_policy import ArgumentPolicy

_NO_METRICS = "Evaluation here gathers losses and ORPO's own metrics, and has no other metric function."
_NO_FULL_EVAL = "While a run trains, the library evaluates in the precision of training whatever this says."
_ONE_PROCESS = "Several processes are not supported yet."
_FSDP_IDLE = {"min_num_params": 0, "xla": False, "xla_fsdp_v2": False, "xla_fsdp_grad_ckpt": False}

UNSUPPORTED_TRAINING_ARGS = {
    "output_dir": ArgumentPolicy("It is a key of the recipe itself.", new_path="output_dir"),
    # the model
    "model_init_kwargs": ArgumentPolicy(
        "The `model` section says how the model is loaded.", "Use the `model` section.", noop_values=({},)
    ),
    "trust_remote_code": ArgumentPolicy(
        "It says how the model is loaded.", noop_values=(False,), new_path="model.trust_remote_code"
    ),
    "is_encoder_decoder": ArgumentPolicy(
        "It is read from the model; ORPO here trains decoders only.", "Remove it.", noop_values=(False,)
    ),
    "use_cache": ArgumentPolicy("A training step never uses the cache.", "Remove it.", noop_values=(False,)),
    "use_liger_kernel": ArgumentPolicy(
        "It has no fused ORPO loss, and trl's trainer would not use it.", "Remove it.", noop_values=(False,)
    ),
    "liger_kernel_config": ArgumentPolicy("The kernels are not used.", "Remove it.", noop_values=({},)),
    # the data
    "max_completion_length": ArgumentPolicy(
        "It only concerns encoder-decoder models, which ORPO here does not train.", "Use `max_length`."
    ),
    "padding_value": ArgumentPolicy("It is the tokenizer's pad token.", "Remove it."),
    "remove_unused_columns": ArgumentPolicy("The columns are this tool's own.", ignored=True),
    "label_names": ArgumentPolicy("The columns are this tool's own.", "Remove it.", noop_values=([],)),
    "length_column_name": ArgumentPolicy("The columns are this tool's own.", "Remove it.", noop_values=("length",)),
    "dataset_num_proc": ArgumentPolicy("The data is prepared on every core.", ignored=True),
    # the step
    "label_smoothing_factor": ArgumentPolicy("trl's ORPO loss has no label smoothing.", "Remove it.", noop_values=(0,)),
    "auto_find_batch_size": ArgumentPolicy(
        "It would change the step behind your back.", "Set `per_device_train_batch_size`.", noop_values=(False,)
    ),
    # evaluation
    "generate_during_eval": ArgumentPolicy(
        "It shows answers in Weights & Biases only.", "Use `orpo generate --compare` on the run.", noop_values=(False,)
    ),
    "prediction_loss_only": ArgumentPolicy(_NO_METRICS, ignored=True),
    "include_for_metrics": ArgumentPolicy(_NO_METRICS, "Remove it.", noop_values=([],)),
    "batch_eval_metrics": ArgumentPolicy(_NO_METRICS, "Remove it.", noop_values=(False,)),
    "eval_do_concat_batches": ArgumentPolicy(_NO_METRICS, "Remove it.", noop_values=(True,)),
    "eval_use_gather_object": ArgumentPolicy(_NO_METRICS, "Remove it.", noop_values=(False,)),
    "bf16_full_eval": ArgumentPolicy(_NO_FULL_EVAL, "Remove it.", noop_values=(False,)),
    "fp16_full_eval": ArgumentPolicy(_NO_FULL_EVAL, "Remove it.", noop_values=(False,)),
    # what is shown and logged
    "disable_tqdm": ArgumentPolicy("Progress is this tool's own; `--quiet` turns it off.", ignored=True),
    "logging_nan_inf_filter": ArgumentPolicy(
        "A loss that is not finite stops the run instead of being hidden.", ignored=True
    ),
    "include_num_input_tokens_seen": ArgumentPolicy("Tokens are always counted and logged.", ignored=True),
    # the run
    "do_train": ArgumentPolicy("`orpo train` trains.", ignored=True),
    "do_eval": ArgumentPolicy("`eval_strategy` says whether there is evaluation.", ignored=True),
    "do_predict": ArgumentPolicy("Training predicts nothing.", "Use `orpo eval` on the run.", noop_values=(False,)),
    "resume_from_checkpoint": ArgumentPolicy(
        "Resuming is asked for on the command line.",
        "Use `orpo train RECIPE --resume auto` or `--resume PATH`.",
        noop_values=(False,),
    ),
    "enable_jit_checkpoint": ArgumentPolicy(
        "A checkpoint is saved on Ctrl-C and SIGTERM anyway.", "Remove it.", noop_values=(False,)
    ),
    "local_rank": ArgumentPolicy("The launcher sets it.", ignored=True),
    "deepspeed": ArgumentPolicy(_ONE_PROCESS, "Remove it.", checked_by_rules=True),
    "fsdp": ArgumentPolicy(_ONE_PROCESS, "Remove it.", noop_values=("", [], False), checked_by_rules=True),
    "fsdp_config": ArgumentPolicy(_ONE_PROCESS, "Remove it.", noop_values=({}, _FSDP_IDLE), checked_by_rules=True),
    "parallelism_config": ArgumentPolicy(_ONE_PROCESS, "Remove it.", noop_values=({},)),
    # the hub
    "push_to_hub": ArgumentPolicy(
        "The result, and what `hub_strategy` says, goes to `hub.repo_id`; a hub that fails never fails the run.",
        noop_values=(False,),
        supported=True,
    ),
    "hub_model_id": ArgumentPolicy("It says where a push goes.", new_path="hub.repo_id"),
    "hub_private_repo": ArgumentPolicy(
        "`hub.private` says it, and a new repository is private unless that is false.",
        noop_values=(False,),
        new_path="hub.private",
    ),
    "hub_token": ArgumentPolicy(
        "A token never stands in a recipe.",
        "Remove it; set HF_TOKEN or run `hf auth login`.",
        noop_values=("<HUB_TOKEN>",),
        secret=True,
    ),
    "hub_strategy": ArgumentPolicy(
        "`end` pushes the result; `every_save`, the default, also the weights of each checkpoint; `checkpoint` also all of "
        "the last one, as `last-checkpoint`; `all_checkpoints` each of them, under its name.",
        noop_values=("every_save",),
        supported=True,
    ),
    "hub_always_push": ArgumentPolicy(
        "Checkpoints go up even while the one before is on its way.", noop_values=(False,), supported=True
    ),
    "hub_revision": ArgumentPolicy("The branch that is pushed to.", supported=True),
}
