"""Rules about the sources of the pairs, the held-out split, the lengths and the data loader."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orpo_cli.errors import DOCS, Problem
from orpo_cli.recipe.did_you_mean import did_you_mean
from orpo_cli.recipe.hub_address import parse_hub_address
from orpo_cli.recipe.schema import EvalSplit, Recipe, Source

ACCELERATOR_CONFIG_KEYS = (
    "split_batches", "dispatch_batches", "even_batches", "use_seedable_sampler", "non_blocking",
    "gradient_accumulation_kwargs", "use_configured_state",
)  # fmt: skip
USUAL_COLUMNS = ("prompt", "chosen", "rejected", "response", "helpfulness", "weight")
SOURCE_COLUMNS = (  # of the formats in orpo_cli.data
    "prompt", "message_tree_id", "message_id", "parent_id", "text", "role", "rank", "messages", "conversations",
    "conversation", "turns", "chosen", "rejected", "rejected_response", "system", "tools", "system_prompt",
    "system_message", "input", "preferred_output", "non_preferred_output", "rejected_messages", "instruction", "question",
    "history", "output", "completions", "answers", "query", "responses", "generations", "candidates",
    "all_generated_responses", "scores", "ratings", "rewards", "all_rm_scores", "ranks", "rankings", "ranking", "response", "helpfulness", "correctness",
    "coherence", "context", "response_1", "response_2", "response_0", "response1", "response2", "response_a", "response_b",
    "answer_1", "answer_2", "answer_0", "answer_a", "answer_b", "output_1", "output_2", "completion_a", "completion_b",
    "conversation_a", "conversation_b", "human_ref_A", "human_ref_B", "response_j", "response_k", "label", "labels",
    "winner", "preference", "choice", "better_response_id", "overall_preference", "preferred", "preference_strength",
    "score_0", "score_1", "score_2", "score_a", "score_b", "rating_0", "rating_1", "rating_2", "rating_a", "rating_b",
    "completion", "score_chosen", "score_rejected", "chosen_score", "rejected_score", "chosen-score", "rejected-score",
    "rating_chosen", "rating_rejected", "chosen_rating", "rejected_rating", "chosen-rating", "rejected-rating",
    "avg_rating_chosen", "avg_rating_rejected", "chosen_avg_rating", "rejected_avg_rating", "chosen-avg_rating",
    "rejected-avg_rating", "weight",
)  # fmt: skip


def unknown_source_column(recipe: Recipe) -> Iterator[Problem]:
    """The keys of `columns` are the names that the formats have."""
    held = recipe.dataset.eval if isinstance(recipe.dataset.eval, list) else []
    for part, sources in (("train", recipe.dataset.train), ("eval", held)):
        for index, source in enumerate(sources):
            path = f"dataset.{part}{_index(index, sources)}.columns"
            for key, name in source.columns.items():
                if key in SOURCE_COLUMNS:
                    continue
                remedy = did_you_mean(
                    key,
                    SOURCE_COLUMNS,
                    f"Usual keys: {', '.join(USUAL_COLUMNS)}. All of them: {DOCS}/reference/data.md",
                )
                if name in USUAL_COLUMNS:
                    remedy = f"The key is the name in orpo-cli: write `{name}: {key}`."
                yield Problem("unknown-key", f"unknown key in `{path}`.", f"{path}.{key}", remedy=remedy)
            keys = {name: key for key, name in reversed(source.columns.items()) if key != "weight"}
            for key, name in source.columns.items():
                if key not in ("weight", keys.get(name, key)):
                    yield Problem(
                        "invalid-value",
                        f"is the column {name}, which `{keys[name]}` is already.",
                        f"{path}.{key}",
                        remedy="Name another column for each key.",
                    )


def prompt_leaves_no_completion(recipe: Recipe) -> Iterator[Problem]:
    """The prompt must leave tokens for the completion."""
    longest, longest_prompt = recipe.training.max_length, recipe.dataset.max_prompt_length
    if longest is not None and longest_prompt is not None and longest_prompt >= longest:
        yield Problem(
            "prompt-fills-length",
            f"is {longest_prompt}, which leaves no tokens for a completion in training.max_length = {longest}.",
            "dataset.max_prompt_length",
            remedy="Make it smaller than training.max_length.",
        )


def two_weights_of_a_pair(recipe: Recipe) -> Iterator[Problem]:
    """A pair has one weight: from a column, or from its scores."""
    held = recipe.dataset.eval if isinstance(recipe.dataset.eval, list) else []
    for part, sources in (("train", recipe.dataset.train), ("eval", held)):
        for index, source in enumerate(sources):
            if source.weight_by is not None and "weight" in source.columns:
                yield Problem(
                    "two-pair-weights",
                    "gives a pair its weight, and columns.weight gives it another.",
                    f"dataset.{part}{_index(index, sources)}.weight_by",
                    remedy="Remove one of them.",
                )


def invalid_test_size(recipe: Recipe) -> Iterator[Problem]:
    """test_size 0.1 is a fraction and 10 a number of pairs; 1.5 and 1.0 are neither."""
    split = recipe.dataset.eval
    if isinstance(split, EvalSplit) and isinstance(split.test_size, float) and split.test_size >= 1:
        yield Problem(
            "test-size",
            f"is {split.test_size}, neither a fraction below 1 nor an integer number of pairs.",
            "dataset.eval.test_size",
            remedy="Write a fraction such as 0.05, or an integer such as 100.",
        )


def no_pairs_left_for_training(recipe: Recipe) -> Iterator[Problem]:
    """test_size must be less than the number of pairs that max_samples allows."""
    split, samples = recipe.dataset.eval, [source.max_samples for source in recipe.dataset.train]
    if not isinstance(split, EvalSplit) or isinstance(split.test_size, float) or None in samples:
        return
    most = sum(number or 0 for number in samples)
    if split.test_size >= most:
        yield Problem(
            "test-size-takes-all",
            f"holds out {split.test_size:,} pairs, but max_samples allows {most:,}: no pair is left for training.",
            "dataset.eval.test_size",
            remedy="Lower it, or raise max_samples.",
        )


def evaluates_on_training_data(recipe: Recipe) -> Iterator[Problem]:
    """Held-out pairs must not be training pairs."""
    if not isinstance(recipe.dataset.eval, list) or recipe.dataset.rules.leaked:
        return
    for index, held in enumerate(recipe.dataset.eval):
        if any(_overlap(held, source) for source in recipe.dataset.train):
            yield Problem(
                "evaluates-on-train",
                f"is also trained on (split {held.split}): the evaluation would measure memorised pairs.",
                f"dataset.eval{_index(index, recipe.dataset.eval)}.path",
                remedy="Use another split, slices that do not overlap (train[:95%], train[95%:]), {test_size: 0.05}, or "
                "rules: {leaked: true}.",
                severity="warning",
            )


def source_is_web_page(recipe: Recipe) -> Iterator[Problem]:
    """A source is the id of a dataset, a path or the URL of a file, not the address of a page of the hub."""
    dataset = recipe.dataset
    for part, sources in (("train", dataset.train), ("eval", dataset.eval if isinstance(dataset.eval, list) else [])):
        for index, source in enumerate(sources):
            hub = parse_hub_address(source.path)
            is_file_url = hub is not None and hub.file and re.search(r"://.*/(?:resolve|raw)/", source.path)
            if hub is None or is_file_url or source.path.startswith("hf://"):
                continue
            revision = "" if hub.revision in (None, "main") else f" and set revision: {hub.revision}"
            if hub.kind != "datasets":
                remedy = f"It is the address of one of the hub's {hub.kind}. Write the id of a dataset, NAMESPACE/NAME."
            elif hub.file:
                remedy = f"Write path: hf://datasets/{hub.id}{f'@{hub.revision}' if revision else ''}/{hub.file}."
            else:
                remedy = f"Write NAMESPACE/NAME: path: {hub.id}{revision}."
            yield Problem(
                "dataset-address",
                "is the address of a web page, not data.",
                f"dataset.{part}{_index(index, sources)}.path",
                remedy=remedy,
            )


def duplicate_source(recipe: Recipe) -> Iterator[Problem]:
    """The same source, read in the same way, yields the same pairs again."""
    sources = recipe.dataset.train
    outcome = "dropped as duplicates" if recipe.dataset.rules.duplicate else "trained on twice per epoch"
    for index, source in enumerate(sources):
        if any(_overlap(source, other) and _format(source) == _format(other) for other in sources[:index]):
            yield Problem(
                "duplicate-source",
                f"repeats an earlier source (split {source.split}): its pairs are {outcome}.",
                f"dataset.train{_index(index, sources)}.path",
                remedy="Remove one, or use slices that do not overlap; to use its pairs more often, raise its weight.",
                severity="warning",
            )


def _overlap(one: Source, other: Source) -> bool:
    """Whether both certainly share rows: the same slice, or the same split of which at least one reads all rows."""
    if (one.path, one.name, one.revision) != (other.path, other.name, other.revision):
        return False
    return one.split == other.split or other.split == _split_name(one.split) or one.split == _split_name(other.split)


def _format(source: Source) -> tuple[object, ...]:
    return source.format, source.columns, source.labels


def _split_name(split: str) -> str:
    return re.split(r"[\[(]", split)[0]


def _index(index: int, sources: list[Source]) -> str:
    return f"[{index}]" if len(sources) > 1 else ""


def streaming_without_end(recipe: Recipe) -> Iterator[Problem]:
    """A stream is read until training has enough pairs, so this number must be known."""
    dataset, steps = recipe.dataset, recipe.training.max_steps
    parts = [("train", dataset.train), ("eval", dataset.eval if isinstance(dataset.eval, list) else [])]
    for part, sources in parts:
        for index, source in enumerate(sources):
            if not source.streaming:
                continue
            path = f"dataset.{part}{_index(index, sources)}.streaming"
            if part == "train" and (steps is None or steps < 1):
                message = "needs training.max_steps, which sets how many pairs are read."
                remedy = "Set training.max_steps, or remove streaming."
                yield Problem("streaming-without-end", message, path, remedy=remedy)
            if part == "eval" and source.max_samples is None:
                message = "needs max_samples, which sets how many rows are held out."
                remedy = "Set max_samples of this source, or remove streaming."
                yield Problem("streaming-without-end", message, path, remedy=remedy)


def worker_settings_unused(recipe: Recipe) -> Iterator[Problem]:
    """By default there are no worker processes that these settings could configure."""
    if recipe.training.dataloader_num_workers:
        return
    for name in recipe.training.explicit_non_defaults(
        "dataloader_prefetch_factor", "dataloader_persistent_workers", "dataloader_multiprocessing_context"
    ):
        yield Problem(
            "worker-settings-unused",
            "needs worker processes, but dataloader_num_workers is 0.",
            f"training.{name}",
            remedy="Remove it, or set dataloader_num_workers.",
        )


def accelerator_config_keys(recipe: Recipe) -> Iterator[Problem]:
    """accelerate knows seven keys of accelerator_config; dispatch_batches does not work with batches of pairs."""
    config = recipe.training.accelerator_config
    if not isinstance(config, dict):
        return  # the path of a file that the library reads
    known_keys = f"Its keys are {', '.join(ACCELERATOR_CONFIG_KEYS)}."
    for key in config.keys() - set(ACCELERATOR_CONFIG_KEYS):
        remedy = did_you_mean(str(key), ACCELERATOR_CONFIG_KEYS, known_keys)
        yield _accelerator_problem(f"accelerate has no key `{key}` here.", remedy)
    if config.get("dispatch_batches"):
        yield _accelerator_problem(
            "dispatch_batches: true splits batches as tensors, which does not work for a batch of pairs.",
            "Remove it: each process reads its own pairs.",
        )
    accumulation = config.get("gradient_accumulation_kwargs")
    if isinstance(accumulation, dict) and "num_steps" in accumulation:
        message = "num_steps is another name of gradient_accumulation_steps."
        yield _accelerator_problem(message, "Write training.gradient_accumulation_steps.")


def _accelerator_problem(message: str, remedy: str) -> Problem:
    return Problem("accelerator-config", message, "training.accelerator_config", remedy=remedy)
