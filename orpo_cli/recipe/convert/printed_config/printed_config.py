"""Printed ``ORPOConfig(...)``: the recipe gets the values that differ from the library's or the plan's defaults."""

from __future__ import annotations

from orpo_cli.errors import UsageError
from orpo_cli.recipe.convert.draft import Draft
from orpo_cli.recipe.convert.training_args import add_defaults, convert_training_args
from orpo_cli.recipe.convert.trl import DEFAULTS
from orpo_cli.recipe.schema.training_fields import LIBRARY_DEFAULTS

# Arguments that the plan decides if the recipe does not set them: the recipe needs the library's defaults.
DECIDED_BY_PLAN = (
    "learning_rate beta max_length per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps "
    "num_train_epochs lr_scheduler_type warmup_steps logging_steps seed report_to save_strategy eval_strategy "
    "load_best_model_at_end bf16 fp16 gradient_checkpointing optim disable_dropout dataloader_pin_memory"
)

# Defaults of accelerate's AcceleratorConfig.
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
    """Convert each argument. Raises UsageError if ``class_name`` is the configuration of another method."""
    if class_name and not class_name.endswith("ORPOConfig"):
        raise UsageError(f"the input is a printed {class_name}, not an ORPOConfig.", remedy="Only ORPO is converted.")
    for key, value in list(draft.source.items()):
        if key not in DECIDED_BY_PLAN.split() and LIBRARY_DEFAULTS.get(key, ...) == value:
            draft.settle(key, "empty")
    accelerator = draft.peek("accelerator_config")
    if isinstance(accelerator, dict) and accelerator.items() <= ACCELERATOR_DEFAULTS.items():
        draft.settle("accelerator_config", "empty")
    if draft.has("run_name") and draft.peek("run_name") == draft.peek("output_dir"):
        draft.settle("run_name", "empty")  # the default of transformers
    convert_training_args(draft)
    add_defaults(draft, DEFAULTS, "trl")
