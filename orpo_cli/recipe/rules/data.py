"""Rules about the pairs and their lengths."""

from __future__ import annotations

from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.schema import EvalSplit, Recipe


def room_for_an_answer(recipe: Recipe) -> Iterator[Problem]:
    """A prompt may not fill the whole sequence."""
    longest, longest_prompt = recipe.training.max_length, recipe.dataset.max_prompt_length
    if longest is not None and longest_prompt is not None and longest_prompt >= longest:
        yield Problem(
            "prompt-fills-length",
            f"is {longest_prompt}, which leaves no room for an answer in training.max_length = {longest}.",
            "dataset.max_prompt_length",
            remedy="Make it smaller than training.max_length.",
        )


def share_or_number(recipe: Recipe) -> Iterator[Problem]:
    """test_size 0.1 is a share, 10 a number; 1.5 is neither."""
    split = recipe.dataset.eval
    if isinstance(split, EvalSplit) and split.test_size >= 1 and split.test_size != int(split.test_size):
        yield Problem(
            "test-size",
            "is a share below 1 or a whole number of pairs.",
            "dataset.eval.test_size",
            remedy="Correct it.",
        )


RULES = (room_for_an_answer, share_or_number)
