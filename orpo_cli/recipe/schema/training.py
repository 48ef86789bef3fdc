"""`training`: the arguments of trl's ORPOConfig by their own names, and two arguments of orpo-cli."""

import typing

from pydantic import Field

from orpo_cli.recipe.schema.training_fields import LIBRARY_DEFAULTS, TrainingFields


class TrainingSection(TrainingFields):
    """Arguments of trl ORPOConfig and transformers TrainingArguments by their own names; the last ones are added by orpo-cli."""

    loss_on_prompt: bool | None = Field(
        None,
        description="Compute the NLL over prompt and chosen completion, as trl does; false: over the chosen completion only.",
    )
    logging_dir: str | None = Field(
        None,
        min_length=1,
        description="Directory of TensorBoard's files; default: TENSORBOARD_LOGGING_DIR, or a directory among the checkpoints.",
    )

    def explicit_non_defaults(self, *names: str) -> list[str]:
        """Those of ``names`` that the recipe sets to another value than the default of the library."""
        values = ((name, getattr(self, name)) for name in names)
        return [name for name, value in values if value is not None and value != LIBRARY_DEFAULTS[name]]


# The values of `optim`: the members of its Literal, which is in a union with None.
OPTIMIZERS: tuple[str, ...] = typing.get_args(typing.get_args(TrainingFields.model_fields["optim"].annotation)[0])
