"""Arguments of the Python interface, checked before a run is made, because the command line can give only texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import UsageError
from orpo_cli.recipe.source.yaml_writer import inline_yaml

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from orpo_cli.training.resume import Input

Overrides = Sequence[str] | Mapping[str, Any]


def override_texts(overrides: Overrides) -> tuple[str, ...]:
    """The overrides as ``section.key=value``. Raises UsageError where they are no list of texts and no mapping."""
    if isinstance(overrides, Mapping):
        return tuple(f"{key}={inline_yaml(_plain(value))}" for key, value in overrides.items())
    return _texts("overrides", overrides, '["training.beta=0.2"], or a mapping: {"training.beta": 0.2}')


def resume_text(resume: str | Path) -> str:
    """The value of ``resume`` as a text. Raises UsageError for another type."""
    if not isinstance(resume, str | Path):
        raise UsageError(
            f'resume={resume!r}: it is "never", "auto" or the path of a checkpoint.',
            remedy='resume="auto" continues the run from its last checkpoint, or starts it; "never" starts a new run.',
        )
    return str(resume)


def allowed_changes(allow_changed: Sequence[Input]) -> Sequence[Input]:
    """``allow_changed``. Raises UsageError where it is no list of inputs."""
    from orpo_cli.training.resume import Input

    for each in _texts("allow_changed", allow_changed, '["data"]'):
        if each not in list(Input):
            raise UsageError(f"allow_changed: {each!r} is no input.", remedy=f"The inputs are {', '.join(Input)}.")
    return allow_changed


def callback_objects(callbacks: Sequence[TrainerCallback | type[TrainerCallback]]) -> list[TrainerCallback]:
    """The callbacks; as transformers does, of a class one object is made. Raises UsageError for what is no callback."""
    remedy = "Give a list of objects or classes of transformers.TrainerCallback: callbacks=[MyCallback()]."
    if not isinstance(callbacks, Sequence):
        raise UsageError(f"callbacks: a {type(callbacks).__name__} is not a list.", remedy=remedy)
    if not callbacks:
        return []
    from transformers import TrainerCallback

    made = [each() if isinstance(each, type) and issubclass(each, TrainerCallback) else each for each in callbacks]
    for each in made:
        if not isinstance(each, TrainerCallback):
            kind = (
                f"the class {each.__name__}"
                if isinstance(each, type)
                else f"an object of the class {type(each).__name__}"
            )
            raise UsageError(f"callbacks: {kind} is not a TrainerCallback.", remedy=remedy)
    return made


def _texts(name: str, values: Sequence[str], example: str) -> tuple[str, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise UsageError(f"{name}: {values!r} is not a list.", remedy=f"Give a list of texts: {name}={example}.")
    for each in values:
        if not isinstance(each, str):
            raise UsageError(f"{name}: {each!r} is not a text.", remedy=f"Give a list of texts: {name}={example}.")
    return tuple(values)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
