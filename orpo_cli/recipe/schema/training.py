"""The recipe's ``training`` section: trl's arguments by their own names, and what this tool adds."""

import typing

from pydantic import Field

from orpo_cli.recipe.schema.training_fields import TrainingFields


class TrainingSection(TrainingFields):
    """trl ORPOConfig and transformers TrainingArguments, by their own names; what comes last is this tool's."""

    loss_on_prompt: bool | None = Field(
        None, description="Whether the NLL counts prompt and chosen answer, as trl's does, or the chosen answer alone."
    )
    logging_dir: str | None = Field(
        None,
        min_length=1,
        description="Folder of TensorBoard's files; if not given, TENSORBOARD_LOGGING_DIR or one among the checkpoints.",
    )


# What `optim` may be today: the members of its Literal, which stands beside None.
OPTIMIZERS: tuple[str, ...] = typing.get_args(typing.get_args(TrainingFields.model_fields["optim"].annotation)[0])
