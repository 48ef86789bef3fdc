"""Filters: the reasons for which a pair is dropped, each with a description, a remedy and a test on the pair.

Every dropped pair is counted under the first reason that applies. Other modules drop pairs under the remaining reasons: while
they read a row (``formats``), render it (``chat_template``), truncate it (``tokenize``), and remove duplicates (``prepare``).
"""

from __future__ import annotations

from collections.abc import Callable

from orpo_cli.data import media
from orpo_cli.data.pair import Message, Pair, RowRejected
from orpo_cli.recipe.schema import PairRules

REASONS = {
    "malformed": "the row does not fit the format",
    "not_text": "the row has an image, audio or video, and this tool trains text",
    "tie": "the data prefers neither completion",
    "no_label": "no label says which completion is better, or whether the one of the row is good or bad",
    "unpaired": "no other completion for the same prompt was found",
    "no_score": "the row has no scores, and min_score_margin, weight_by or rejected: worst needs them",
    "no_weight": "the weight of the pair is not a number from 0.000001 to 1,000,000",
    "score_margin": "the score of the chosen completion is less than min_score_margin above that of the rejected one",
    "histories_differ": "the conversations before the two completions differ",
    "empty_prompt": "the prompt, or its last turn, has no text",
    "empty_chosen": "the chosen completion has no text",
    "empty_rejected": "the rejected completion has no text",
    "identical": "the two completions are identical",
    "template_error": "the chat template cannot render the conversation",
    "template_mismatch": "the rendered conversation does not start with the rendered prompt",
    "identical_when_rendered": "the two completions differ in the data, but are the same tokens in training",
    "prompt_too_long": "the pair is longer than max_length, and its prompt longer than max_prompt_length",
    "no_room": "the prompt fills max_length, so no token of a completion fits",
    "identical_when_cut": "the two completions differ only after max_length",
    "answer_too_long": "a completion does not fit into max_length after its prompt, and drop_truncated is set",
    "goes_on_after_end": "a completion continues after an end token",
    "duplicate": "an earlier pair has the same tokens",
    "duplicate_prompt": "an earlier pair has the same prompt",
    "leaked": "the prompt also occurs in the eval pairs",
}

REMEDIES = {
    "malformed": "Name the format with `format:` or the columns with `columns:`.",
    "not_text": media.REMEDY,
    "no_label": "Label these rows, or leave them out. If another column has their labels, name it with `columns:`.",
    "unpaired": "Give a good and a bad completion for each prompt.",
    "no_score": "Map the columns with `columns: {score_chosen: …, score_rejected: …}`, or remove min_score_margin, weight_by and rejected: worst.",
    "no_weight": "Give every row a weight above 0, or remove the rows that are not to be trained.",
    "histories_differ": "Keep rows whose two conversations differ only in the last message, or set dataset.turns: all for a pair at each turn that differs.",
    "empty_prompt": "Give each row a prompt, or name its column with `columns: {prompt: …}`.",
    "template_error": "Choose another template with model.chat_template, or change the roles in the data.",
    "template_mismatch": "Choose another template with model.chat_template.",
    "identical_when_rendered": "Choose a chat template with model.chat_template that writes what differs (see the thinking-models guide for "
    "reasoning), or give answers that differ in their text.",
    "prompt_too_long": "Raise training.max_length, or set dataset.truncation_mode to keep_end.",
    "no_room": "Raise training.max_length, or lower dataset.max_prompt_length.",
    "identical_when_cut": "Raise training.max_length.",
    "answer_too_long": "Raise training.max_length, or set dataset.drop_truncated to false.",
    "goes_on_after_end": "Cut the texts at their first end token, or give messages instead of rendered texts.",
}


def empty_prompt(pair: Pair) -> bool:
    """Prompt without text: ORPO needs a prompt."""
    return not pair.prompt_text.strip()


def empty_chosen(pair: Pair) -> bool:
    """Chosen completion without text: it would teach the model to generate nothing."""
    return not pair.chosen_text.strip()


def empty_rejected(pair: Pair) -> bool:
    """Rejected completion without text: its mean log-probability would be that of the end token only."""
    return not pair.rejected_text.strip()


def identical(pair: Pair) -> bool:
    """Equal completions, except for white space at the ends: the log odds ratio is always 0."""
    return pair.chosen_text.strip() == pair.rejected_text.strip() and _reasoning(pair.chosen) == _reasoning(
        pair.rejected
    )


def _reasoning(completion: tuple[Message, ...] | str) -> list[str]:
    return [] if isinstance(completion, str) else [message.reasoning.strip() for message in completion]


PAIR_RULES: tuple[Callable[[Pair], bool], ...] = (empty_prompt, empty_chosen, empty_rejected, identical)


def check_margin(pair: Pair, min_margin: float | None) -> None:
    """Raise RowRejected where the score margin of the pair is below ``min_margin``; None: no check."""
    if min_margin is None:
        return
    if pair.scores is None:
        raise RowRejected("no_score")
    if pair.scores[0] - pair.scores[1] < min_margin:
        raise RowRejected("score_margin", f"{pair.scores[0]:g} and {pair.scores[1]:g}")


def check_pair(pair: Pair, rules: PairRules) -> None:
    """Raise RowRejected for the first rule that the pair breaks and that ``rules`` does not switch off."""
    if pair.rejected_prompt is not None:
        raise RowRejected("histories_differ")
    for breaks in PAIR_RULES:
        if getattr(rules, breaks.__name__, True) and breaks(pair):
            raise RowRejected(breaks.__name__)
