"""What is never trained on. Each rule is a name, one line for people, and a test on a pair.

Every dropped pair is counted under the name of the first rule that it breaks. Besides the rules here, reading a row
(``formats``), rendering it (``render``) and fitting it to the lengths (``tokenize``) drop pairs under the other names.
"""

from __future__ import annotations

from collections.abc import Callable

from orpo_cli.data.pair import Pair, RowRejected
from orpo_cli.recipe.schema import PairRules

REASONS = {
    "malformed": "the row does not fit the format",
    "tie": "the data calls neither answer better",
    "unpaired": "no row holds another answer to the same prompt",
    "no_score": "the row has no scores, and min_score_margin asks for them",
    "score_margin": "the scores of the two answers are closer than min_score_margin",
    "histories_differ": "the conversations before the two answers are not the same",
    "empty_prompt": "the prompt, or its last turn, holds no text",
    "empty_chosen": "the chosen answer holds no text",
    "empty_rejected": "the rejected answer holds no text",
    "identical": "the two answers are the same",
    "template_error": "the chat template refuses the conversation",
    "template_mismatch": "the finished conversation does not begin as its prompt does",
    "prompt_too_long": "the pair is longer than max_length, and its prompt than max_prompt_length",
    "no_room": "the prompt fills max_length, so no token of an answer fits",
    "identical_when_cut": "the two answers differ only beyond max_length",
    "answer_too_long": "an answer is longer than max_length leaves room for, and drop_truncated is set",
    "goes_on_after_end": "an answer goes on behind a token that ends it",
    "duplicate": "the same pair, token for token, came before",
    "duplicate_prompt": "a pair with the same prompt came before",
    "leaked": "the prompt is held out for evaluation, too",
}

REMEDIES = {
    "malformed": "Name the format with `format:` or the columns with `columns:`.",
    "unpaired": "Give a good and a bad answer to each prompt.",
    "no_score": "Map the columns with `columns: {score_chosen: …, score_rejected: …}`, or leave min_score_margin out.",
    "histories_differ": "Keep rows whose two conversations differ in the last answer only.",
    "template_error": "Choose another template with model.chat_template, or change the roles in the data.",
    "template_mismatch": "Choose another template with model.chat_template.",
    "prompt_too_long": "Raise training.max_length, or set dataset.truncation_mode to keep_end.",
    "no_room": "Raise training.max_length, or lower dataset.max_prompt_length.",
    "identical_when_cut": "Raise training.max_length.",
    "answer_too_long": "Raise training.max_length, or set dataset.drop_truncated to false.",
    "goes_on_after_end": "Cut the texts at their first end token, or give messages instead of rendered texts.",
}


def empty_prompt(pair: Pair) -> bool:
    """Nothing to answer: ORPO needs a prompt."""
    return not pair.prompt_text.strip()


def empty_chosen(pair: Pair) -> bool:
    """Would teach the model to say nothing."""
    return not pair.chosen_text.strip()


def empty_rejected(pair: Pair) -> bool:
    """Its mean log-probability would be that of the end token alone."""
    return not pair.rejected_text.strip()


def identical(pair: Pair) -> bool:
    """No preference: the log odds ratio is 0 whatever the model does. White space at the ends does not count."""
    return pair.chosen_text.strip() == pair.rejected_text.strip()


PAIR_RULES: tuple[Callable[[Pair], bool], ...] = (empty_prompt, empty_chosen, empty_rejected, identical)


def check_margin(pair: Pair, least: float | None) -> None:
    """Raise RowRejected where the chosen answer is not rated better than the rejected one by ``least``; None asks nothing."""
    if least is None:
        return
    if pair.scores is None:
        raise RowRejected("no_score")
    if pair.scores[0] - pair.scores[1] < least:
        raise RowRejected("score_margin", f"{pair.scores[0]:g} and {pair.scores[1]:g}")


def check_pair(pair: Pair, rules: PairRules) -> None:
    """Raise RowRejected with the name of the first rule that the pair breaks and ``rules`` has not turned off."""
    for breaks in PAIR_RULES:
        if getattr(rules, breaks.__name__, True) and breaks(pair):
            raise RowRejected(breaks.__name__)
