"""A printed ``ORPOConfig(...)`` as a recipe: only what is not the library's default, or what the plan would decide, is written."""

from __future__ import annotations

from orpo_cli.errors import UsageError
from orpo_cli.recipe.convert.draft import Draft
from orpo_cli.recipe.convert.training_args import add_defaults, convert_training_args
from orpo_cli.recipe.convert.trl import DEFAULTS
from orpo_cli.recipe.schema.training_fields import LIBRARY_DEFAULTS

# Arguments that a plan decides where the recipe is silent: their defaults have to be written.
DECIDED_BY_PLAN = (
    "learning_rate beta max_length per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps "
    "num_train_epochs lr_scheduler_type warmup_steps logging_steps seed report_to save_strategy eval_strategy "
    "load_best_model_at_end bf16 fp16 gradient_checkpointing optim disable_dropout dataloader_pin_memory"
)

# What accelerate's AcceleratorConfig holds where nobody set anything.
ACCELERATOR_DEFAULTS = {
    "split_batches": False,
    "dispatch_batches": None,
    "even_batches": True,
    "use_seedable_sampler": True,
    "non_blocking": False,
    "gradient_accumulation_kwargs": None,
    "use_configured_state": False,
}


def convert(draft: Draft, class_name: str) -> None:
    """Deal with every argument. Raises UsageError where another method's configuration was printed."""
    if class_name and not class_name.endswith("ORPOConfig"):
        raise UsageError(f"this is a printed {class_name}, not an ORPOConfig.", remedy="Only ORPO is converted.")
    for key in list(draft.source):
        if (
            key in LIBRARY_DEFAULTS
            and key not in DECIDED_BY_PLAN.split()
            and draft.source[key] == LIBRARY_DEFAULTS[key]
        ):
            draft.settle(key, "empty")
    accelerator = draft.peek("accelerator_config")
    if isinstance(accelerator, dict) and accelerator.items() <= ACCELERATOR_DEFAULTS.items():
        draft.settle("accelerator_config", "empty")
    if draft.has("run_name") and draft.peek("run_name") == draft.peek("output_dir"):
        draft.settle("run_name", "empty")  # transformers fills it in so
    convert_training_args(draft)
    add_defaults(draft, DEFAULTS, "trl")
