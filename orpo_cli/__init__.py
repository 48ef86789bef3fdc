"""orpo-cli: fine-tune language models on preference pairs with ORPO (arXiv 2403.07691).

The Python interface: ``from orpo_cli import Recipe, plan, train, evaluate, generate, merge, export, push``. It is imported when a
name is used, so that ``import orpo_cli`` loads no library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orpo_cli.api.functions import (
        Answer,
        evaluate,
        export,
        generate,
        merge,
        push,
    )
    from orpo_cli.api.planning import PlannedTraining, plan
    from orpo_cli.api.recipe import Recipe
    from orpo_cli.api.run import Run
    from orpo_cli.api.training import train
    from orpo_cli.errors import OrpoError

__version__ = "0.2.0"

_MODULES = {
    "Recipe": "api.recipe",
    "Run": "api.run",
    "Answer": "api.functions",
    "PlannedTraining": "api.planning",
    "plan": "api.planning",
    "train": "api.training",
    "evaluate": "api.functions",
    "generate": "api.functions",
    "merge": "api.functions",
    "export": "api.functions",
    "push": "api.functions",
    "OrpoError": "errors",
}
__all__ = [
    "Answer",
    "OrpoError",
    "PlannedTraining",
    "Recipe",
    "Run",
    "evaluate",
    "export",
    "generate",
    "merge",
    "plan",
    "push",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]
