"""Arguments of today's ORPOConfig that a recipe's `training:` does not set: another section or command, or this tool does."""

from __future__ import annotations

from orpo_cli.recipe.legacy.argument_policy import Fate

_NO_METRICS = "Evaluation here gathers losses and ORPO's own metrics, and has no other metric function."
_NO_FULL_EVAL = "While a run trains, the library evaluates in the precision of training whatever this says."
_ONE_PROCESS = "Several processes are not supported yet."
_FSDP_IDLE = {"min_num_params": 0, "xla": False, "xla_fsdp_v2": False, "xla_fsdp_grad_ckpt": False}

DECIDED_ELSEWHERE = {
    "output_dir": Fate("It is a key of the recipe itself.", to="output_dir"),
    # the model
    "model_init_kwargs": Fate(
        "The `model` section says how the model is loaded.", "Use the `model` section.", idle=({},)
    ),
    "trust_remote_code": Fate("It says how the model is loaded.", idle=(False,), to="model.trust_remote_code"),
    "is_encoder_decoder": Fate(
        "It is read from the model; ORPO here trains decoders only.", "Remove it.", idle=(False,)
    ),
    "use_cache": Fate("A training step never uses the cache.", "Remove it.", idle=(False,)),
    "use_liger_kernel": Fate(
        "It has no fused ORPO loss, and trl's trainer would not use it.", "Remove it.", idle=(False,)
    ),
    "liger_kernel_config": Fate("The kernels are not used.", "Remove it.", idle=({},)),
    # the data
    "max_completion_length": Fate(
        "It only concerns encoder-decoder models, which ORPO here does not train.", "Use `max_length`."
    ),
    "padding_value": Fate("It is the tokenizer's pad token.", "Remove it."),
    "remove_unused_columns": Fate("The columns are this tool's own.", ignored=True),
    "label_names": Fate("The columns are this tool's own.", "Remove it.", idle=([],)),
    "length_column_name": Fate("The columns are this tool's own.", "Remove it.", idle=("length",)),
    "dataset_num_proc": Fate("The data is prepared on every core.", ignored=True),
    # the step
    "label_smoothing_factor": Fate("trl's ORPO loss has no label smoothing.", "Remove it.", idle=(0,)),
    "auto_find_batch_size": Fate(
        "It would change the step behind your back.", "Set `per_device_train_batch_size`.", idle=(False,)
    ),
    # evaluation
    "generate_during_eval": Fate(
        "It shows answers in Weights & Biases only.", "Use `orpo generate --compare` on the run.", idle=(False,)
    ),
    "prediction_loss_only": Fate(_NO_METRICS, ignored=True),
    "include_for_metrics": Fate(_NO_METRICS, "Remove it.", idle=([],)),
    "batch_eval_metrics": Fate(_NO_METRICS, "Remove it.", idle=(False,)),
    "eval_do_concat_batches": Fate(_NO_METRICS, "Remove it.", idle=(True,)),
    "eval_use_gather_object": Fate(_NO_METRICS, "Remove it.", idle=(False,)),
    "bf16_full_eval": Fate(_NO_FULL_EVAL, "Remove it.", idle=(False,)),
    "fp16_full_eval": Fate(_NO_FULL_EVAL, "Remove it.", idle=(False,)),
    # what is shown and logged
    "disable_tqdm": Fate("Progress is this tool's own; `--quiet` turns it off.", ignored=True),
    "logging_nan_inf_filter": Fate("A loss that is not finite stops the run instead of being hidden.", ignored=True),
    "include_num_input_tokens_seen": Fate("Tokens are always counted and logged.", ignored=True),
    # the run
    "do_train": Fate("`orpo train` trains.", ignored=True),
    "do_eval": Fate("`eval_strategy` says whether there is evaluation.", ignored=True),
    "do_predict": Fate("Training predicts nothing.", "Use `orpo eval` on the run.", idle=(False,)),
    "resume_from_checkpoint": Fate(
        "Resuming is asked for on the command line.",
        "Use `orpo train RECIPE --resume auto` or `--resume PATH`.",
        idle=(False,),
    ),
    "enable_jit_checkpoint": Fate("A checkpoint is saved on Ctrl-C and SIGTERM anyway.", "Remove it.", idle=(False,)),
    "local_rank": Fate("The launcher sets it.", ignored=True),
    "deepspeed": Fate(_ONE_PROCESS, "Remove it.", kept=True),
    "fsdp": Fate(_ONE_PROCESS, "Remove it.", idle=("", [], False), kept=True),
    "fsdp_config": Fate(_ONE_PROCESS, "Remove it.", idle=({}, _FSDP_IDLE), kept=True),
    "parallelism_config": Fate(_ONE_PROCESS, "Remove it.", idle=({},)),
    # the hub
    "push_to_hub": Fate(
        "The result, and what `hub_strategy` says, goes to `hub.repo_id`; a hub that fails never fails the run.",
        idle=(False,),
        own=True,
    ),
    "hub_model_id": Fate("It says where a push goes.", to="hub.repo_id"),
    "hub_private_repo": Fate(
        "`hub.private` says it, and a new repository is private unless that is false.",
        idle=(False,),
        to="hub.private",
    ),
    "hub_token": Fate(
        "A token never stands in a recipe.",
        "Remove it; set HF_TOKEN or run `hf auth login`.",
        idle=("<HUB_TOKEN>",),
        secret=True,
    ),
    "hub_strategy": Fate(
        "`end` pushes the result; `every_save`, the default, also the weights of each checkpoint; `checkpoint` also all of "
        "the last one, as `last-checkpoint`; `all_checkpoints` each of them, under its name.",
        idle=("every_save",),
        own=True,
    ),
    "hub_always_push": Fate("Checkpoints go up even while the one before is on its way.", idle=(False,), own=True),
    "hub_revision": Fate("The branch that is pushed to.", own=True),
}
