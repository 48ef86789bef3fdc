"""`training`: the arguments of trl's ORPOConfig by their own names, and five arguments of orpo-cli."""

import typing
from typing import Any

from pydantic import Field

from orpo_cli.recipe.schema.time_limit import TimeLimit
from orpo_cli.recipe.schema.training_fields import LIBRARY_DEFAULTS, TrainingFields
from orpo_cli.recipe.schema.watchdogs import Watchdogs


class TrainingSection(TrainingFields):
    """Arguments of trl ORPOConfig and transformers TrainingArguments by their own names; the last ones are added by orpo-cli."""

    loss_on_prompt: bool | None = Field(
        None,
        description="Compute the NLL over prompt and chosen completion, as trl does; false: over the chosen completion only.",
    )
    nll_weight: float | None = Field(
        None,
        ge=0,
        description="Weight of the NLL term in the loss, 1 in the paper and in trl; 0 trains on the odds ratio term alone, and with "
        "beta 0 the NLL alone is supervised fine-tuning.",
    )
    save_before: TimeLimit | None = Field(
        None,
        description="Save a checkpoint and leave before this time since the start, as HH:MM:SS or D-HH:MM:SS; in a Slurm "
        "job, the end of the job counts too.",
    )
    watchdogs: Watchdogs | None = Field(
        None,
        description="What happens when the metrics show a known problem: advise prints a warning, stop also saves a checkpoint and "
        "ends the run with exit code 5, off does nothing; or a mapping of watchdogs to these. Default: advise.",
    )
    logging_dir: str | None = Field(
        None,
        min_length=1,
        description="Directory of TensorBoard's files; default: TENSORBOARD_LOGGING_DIR, or `tensorboard` in the run directory.",
    )

    def explicit_non_defaults(self, *names: str) -> list[str]:
        """Those of ``names`` that the recipe sets to another value than the default of the library."""
        values = ((name, getattr(self, name)) for name in names)
        return [name for name, value in values if value is not None and value != LIBRARY_DEFAULTS[name]]


# The values of `optim`: the members of its Literal, which is in a union with None.
OPTIMIZERS: tuple[str, ...] = typing.get_args(typing.get_args(TrainingFields.model_fields["optim"].annotation)[0])
# Example values of arguments whose default or choices do not explain them.
TRAINING_EXAMPLES: dict[str, list[Any]] = {
    "logging_dir": ["curves"],
    "save_before": ["02:30:00", "1-12:00:00"],
    "watchdogs": ["stop", {"loss_spike": "stop", "throughput_halved": "off"}],
    "push_to_hub": [True],
    "hub_strategy": ["checkpoint"],
    "hub_revision": ["first-try"],
    "beta": [0.1],
    "nll_weight": [1.0, 0.0],
    "max_length": [1024, 2048],
    "per_device_train_batch_size": [2],
    "gradient_accumulation_steps": [16],
    "num_train_epochs": [1, 3],
    "max_steps": [500],
    "learning_rate": [5e-06, 0.0001],
    "lr_scheduler_type": ["cosine", "inverse_sqrt"],
    "lr_scheduler_kwargs": [{"num_cycles": 2}, {"min_lr": 1e-06}],
    "warmup_steps": [0.1, 100],
    "optim": ["adamw_torch", "paged_adamw_8bit"],
    "optim_args": ["rank=128,update_proj_gap=200"],
    "optim_target_modules": [["q_proj", "v_proj"], "all-linear"],
    "activation_checkpointing_kwargs": [{"use_reentrant": False}],
    "gradient_checkpointing_kwargs": [{"use_reentrant": False}],
    "torch_compile_backend": ["inductor"],
    "torch_compile_mode": ["max-autotune"],
    "neftune_noise_alpha": [5.0],
    "torch_empty_cache_steps": [10],
    "eval_strategy": ["steps", "epoch"],
    "eval_steps": [100, 0.2],
    "eval_accumulation_steps": [8],
    "save_strategy": ["epoch", "steps"],
    "save_steps": [500, 0.2],
    "save_total_limit": [2],
    "metric_for_best_model": ["eval_loss", "eval_rewards/margins"],
    "logging_steps": [1, 10],
    "report_to": [["wandb"], "tensorboard"],
    "run_name": ["mistral-7b-beta-0.1"],
    "project": ["orpo"],
    "trackio_space_id": ["my-name/trackio"],
    "trackio_bucket_id": ["my-name/trackio-data"],
    "trackio_static_space_id": ["my-name/trackio-results", False],
    "data_seed": [7],
    "accelerator_config": [{"split_batches": True}],
    "dataloader_num_workers": [2],
    "dataloader_prefetch_factor": [2],
    "dataloader_multiprocessing_context": ["spawn", "fork"],
    "ddp_backend": ["gloo", "nccl"],
    "ddp_bucket_cap_mb": [25],
    "debug": ["underflow_overflow"],
}
