"""Rules about the pairs and their lengths."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.schema import EvalSplit, Recipe, Source


def prompt_leaves_no_completion(recipe: Recipe) -> Iterator[Problem]:
    """A prompt may not fill the whole sequence."""
    longest, longest_prompt = recipe.training.max_length, recipe.dataset.max_prompt_length
    if longest is not None and longest_prompt is not None and longest_prompt >= longest:
        yield Problem(
            "prompt-fills-length",
            f"is {longest_prompt}, which leaves no room for an answer in training.max_length = {longest}.",
            "dataset.max_prompt_length",
            remedy="Make it smaller than training.max_length.",
        )


def test_size_is_no_fraction_or_count(recipe: Recipe) -> Iterator[Problem]:
    """test_size 0.1 is a share, 10 a number; 1.5 and 1.0 are neither."""
    split = recipe.dataset.eval
    if isinstance(split, EvalSplit) and isinstance(split.test_size, float) and split.test_size >= 1:
        yield Problem(
            "test-size",
            f"is {split.test_size}, neither a share below 1 nor a whole number of pairs.",
            "dataset.eval.test_size",
            remedy="Write a share such as 0.05, or a number such as 100.",
        )


def test_size_takes_all_pairs(recipe: Recipe) -> Iterator[Problem]:
    """No more pairs are held out than there can be."""
    split, samples = recipe.dataset.eval, [source.max_samples for source in recipe.dataset.train]
    if not isinstance(split, EvalSplit) or isinstance(split.test_size, float) or None in samples:
        return
    most = sum(number or 0 for number in samples)
    if split.test_size >= most:
        yield Problem(
            "test-size-takes-all",
            f"holds out {split.test_size:,} pairs, and max_samples allows {most:,}: none is left to train on.",
            "dataset.eval.test_size",
            remedy="Lower it, or raise max_samples.",
        )


def evaluates_on_training_data(recipe: Recipe) -> Iterator[Problem]:
    """What is evaluated on was not trained on."""
    if not isinstance(recipe.dataset.eval, list) or recipe.dataset.rules.leaked:
        return
    for index, held in enumerate(recipe.dataset.eval):
        if any(_overlap(held, source) for source in recipe.dataset.train):
            yield Problem(
                "evaluates-on-train",
                f"is also trained on (split {held.split}): the evaluation would measure what was learned by heart.",
                f"dataset.eval{_index(index, recipe.dataset.eval)}.path",
                remedy="Use another split, slices that do not overlap (train[:95%], train[95%:]), {test_size: 0.05}, or "
                "rules: {leaked: true}.",
                severity="warning",
            )


def duplicate_source(recipe: Recipe) -> Iterator[Problem]:
    """Twice the same source, read in the same way, is twice the same pairs."""
    sources = recipe.dataset.train
    outcome = "left out as duplicates" if recipe.dataset.rules.duplicate else "trained on twice an epoch"
    for index, source in enumerate(sources):
        if any(_overlap(source, other) and _same_format(source, other) for other in sources[:index]):
            yield Problem(
                "duplicate-source",
                f"was given before (split {source.split}): its pairs are {outcome}.",
                f"dataset.train{_index(index, sources)}.path",
                remedy="Remove one, or use slices that do not overlap; to have its pairs more often, raise its weight.",
                severity="warning",
            )


def _overlap(one: Source, other: Source) -> bool:
    """Whether both surely read some of the same rows: the same split, of which at least one has all, or the same slice."""
    if (one.path, one.name, one.revision) != (other.path, other.name, other.revision):
        return False
    return one.split == other.split or other.split == _split_name(one.split) or one.split == _split_name(other.split)


def _same_format(one: Source, other: Source) -> bool:
    return (one.format, one.columns, one.labels) == (other.format, other.columns, other.labels)


def _split_name(split: str) -> str:
    return re.split(r"[\[(]", split)[0]


def _index(index: int, sources: list[Source]) -> str:
    return f"[{index}]" if len(sources) > 1 else ""


def streaming_without_end(recipe: Recipe) -> Iterator[Problem]:
    """A stream is read until training has its pairs, so training has to say how many it takes."""
    dataset, steps = recipe.dataset, recipe.training.max_steps
    places = [("train", dataset.train), ("eval", dataset.eval if isinstance(dataset.eval, list) else [])]
    for part, sources in places:
        for index, source in enumerate(sources):
            if not source.streaming:
                continue
            place = f"dataset.{part}[{index}].streaming" if len(sources) > 1 else f"dataset.{part}.streaming"
            if part == "train" and (steps is None or steps < 1):
                yield Problem(
                    "streaming-without-end",
                    "needs training.max_steps, which says how many pairs to read.",
                    place,
                    remedy="Set training.max_steps, or leave streaming out.",
                )
            if part == "eval" and source.max_samples is None:
                yield Problem(
                    "streaming-without-end",
                    "needs max_samples, which says how many rows to hold out.",
                    place,
                    remedy="Set max_samples of this source, or leave streaming out.",
                )


RULES = (
    prompt_leaves_no_completion,
    test_size_is_no_fraction_or_count,
    test_size_takes_all_pairs,
    evaluates_on_training_data,
    duplicate_source,
    streaming_without_end,
)
