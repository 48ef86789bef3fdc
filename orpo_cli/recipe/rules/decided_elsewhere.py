"""Training arguments that another part of the recipe or of the command line decides."""

from __future__ import annotations

from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.schema import Recipe

DECIDED_ELSEWHERE = {
    "model_init_kwargs": "Use the `model` section.",
    "trust_remote_code": "Write `model.trust_remote_code`.",
    "resume_from_checkpoint": "Use `orpo train RECIPE --resume auto` or `--resume PATH`.",
    "do_train": "Use `orpo train`.",
    "do_eval": "Use `eval_strategy`.",
    "do_predict": "Use `orpo eval`.",
    "remove_unused_columns": "The columns are this tool's own.",
    "disable_tqdm": "Use `--quiet`.",
    "is_encoder_decoder": "It is read from the model.",
    "max_completion_length": "It only concerns encoder-decoder models, which ORPO here does not train.",
    "local_rank": "The launcher sets it.",
    "dataset_num_proc": "The data is prepared in batches, in this process.",
    "hub_token": "A token never stands in a recipe: set HF_TOKEN or run `hf auth login`.",
    "push_to_hub": "Use `orpo push-to-hub` after training.",
    "hub_model_id": "Write `hub.repo_id`.",
    "generate_during_eval": "Use `orpo generate --compare`.",
    "label_names": "They are known.",
    "auto_find_batch_size": "It would change the step; set per_device_train_batch_size.",
    "label_smoothing_factor": "trl's ORPO loss has none.",
    "padding_value": "It is the tokenizer's pad token.",
    "use_liger_kernel": "It has no fused ORPO loss, and trl's trainer would not use it.",
    "logging_nan_inf_filter": "A loss that is not finite stops the run instead of being hidden.",
    "deepspeed": "Several processes are not supported yet.",
    "fsdp": "Several processes are not supported yet.",
    "fsdp_config": "Several processes are not supported yet.",
    "parallelism_config": "Several processes are not supported yet.",
}


def set_elsewhere(recipe: Recipe) -> Iterator[Problem]:
    """An argument that the recipe sets and something else decides."""
    for name, remedy in DECIDED_ELSEWHERE.items():
        if getattr(recipe.training, name) is not None:
            yield Problem("decided-elsewhere", "is not set here.", f"training.{name}", remedy=remedy)


RULES = (set_elsewhere,)
