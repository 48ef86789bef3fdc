"""Turns and rejected answers: the pairs of a row that has answers at several turns, or several rejected answers.

``dataset.turns`` and ``dataset.rejected`` choose among them. All pairs of a turn share its history, in which every answer is the
chosen one: a rejected answer is never part of a prompt, since the loss of the prompt would train it.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from orpo_cli.data.formats.format import Format, RejectedAnswers, Row
from orpo_cli.data.formats.several_rejected import split_rejected
from orpo_cli.data.pair import Message, Pair, RowRejected
from orpo_cli.recipe.schema import DatasetSection

PAIR_NUMBER = re.compile(r"#\d+$")  # end of the name of each pair of a row that has several
GROUPED_ROWS = re.compile(r"(.*:)(\d+(\+\d+)+)")  # name of a row that was grouped from several: x.jsonl:1+4
TREE = re.compile(r"\(\+\d+\)$")  # end of the name of a tree: its messages after the first


def read_pairs(row: Row, format_: Format, dataset: DatasetSection, notes: Counter[str]) -> list[Pair | RowRejected]:
    """Pairs of a row in the order of its turns and answers; a RowRejected in place of one that cannot be read.

    ``notes`` counts the pairs beyond the first of the row, and the turns and answers that are not used. Raises RowRejected
    where the row has none.
    """
    found: list[Pair | RowRejected] = []
    corrected: Counter[str] = Counter()
    turns = _used_turns(row, format_, dataset, notes)
    pairs_of_turns = len(turns) - 1
    for turn in turns:
        try:
            answers = _used_answers(turn, format_, dataset, notes)
        except RowRejected as rejection:
            found.append(rejection)
            continue
        if len(answers) > 1:
            notes["pairs_of_rejected"] += len(answers) - 1
        for answer in answers:
            try:
                pair = format_.read(answer, corrected)
            except RowRejected as rejection:
                found.append(rejection)
                continue
            pairs = list(split_turns(pair)) if dataset.turns == "all" else [pair]
            pairs_of_turns += len(pairs) - 1
            found += pairs
    if pairs_of_turns:
        notes["pairs_of_turns"] += pairs_of_turns
    if corrected:
        notes.update(dict.fromkeys(corrected, 1))
    return found


def pair_names(row_name: str, count: int) -> list[str]:
    """Name of each pair of a row: that of the row, with a number where there are several."""
    return [row_name] if count == 1 else [f"{row_name}#{number}" for number in range(1, count + 1)]


def row_of_pair(name: str) -> str:
    """Name of the row of a pair."""
    return PAIR_NUMBER.sub("", name)


def names_of_pair(name: str) -> tuple[str, ...]:
    """Names by which a pair is found: its own, that of its row, and those of the rows that were grouped, of a tree the first."""
    row = row_of_pair(name)
    found = GROUPED_ROWS.fullmatch(row)
    rows = [f"{found[1]}{number}" for number in found[2].split("+")] if found else [TREE.sub("", row)]
    return name, row, *rows


def split_turns(pair: Pair) -> Iterator[Pair | RowRejected]:
    """A pair for each assistant message in which the two conversations of ``pair`` differ, after the chosen history.

    They end where a message of another role differs: the answers after it have no common prompt, and are one RowRejected.
    """
    if pair.rejected_prompt is None or isinstance(pair.prompt, str):
        yield pair
        return
    chosen, rejected = (*pair.prompt, *pair.chosen), (*pair.rejected_prompt, *pair.rejected)
    for position, (better, worse) in enumerate(zip(chosen, rejected, strict=False)):
        if better == worse:
            continue
        if not (_is_answer(chosen, position) and _is_answer(rejected, position)):
            yield RowRejected("histories_differ", f"message {position + 1}")
            return
        yield replace(pair, prompt=chosen[:position], chosen=(better,), rejected=(worse,), rejected_prompt=None)
    if len(chosen) != len(rejected):
        yield RowRejected("histories_differ", f"{len(chosen)} and {len(rejected)} messages")


def _is_answer(conversation: tuple[Message, ...], position: int) -> bool:
    """Whether a message is a complete answer of the assistant: some transcripts have one in two messages."""
    roles = [message.role for message in conversation[position - 1 : position + 2]]
    return position > 0 and roles[0] in ("user", "tool") and roles[1] == "assistant" and roles[2:] != ["assistant"]


def _used_turns(row: Row, format_: Format, dataset: DatasetSection, notes: Counter[str]) -> list[Row]:
    if format_.turns is None:
        return [row]
    turns = format_.turns(row)
    used = [turn.row for turn in turns if turn.is_last or dataset.turns == "all"]
    if not used:
        raise RowRejected("unpaired")
    notes["turns_unused"] += len(turns) - len(used)
    notes.update({"turns_below_others": below} if (below := sum(turn.below_others for turn in turns)) else {})
    return used


def _used_answers(row: Row, format_: Format, dataset: DatasetSection, notes: Counter[str]) -> list[Row]:
    """Row with each rejected answer that ``dataset.rejected`` chooses. Raises RowRejected where scores are missing for it."""
    answers = (format_.answers or split_rejected)(row)
    choice = dataset.rejected
    if choice == "first" and format_.answers is not None:  # scored completions have no order: the ORPO paper draws one
        choice = "random"
    used = _chosen_among(answers, choice, dataset.shuffle_seed)
    if len(used) < len(answers.rows):
        notes["rejected_unused"] += len(answers.rows) - len(used)
    return used


def _chosen_among(answers: RejectedAnswers, choice: str, seed: int) -> list[Row]:
    if choice == "all" or len(answers.rows) == 1:
        return answers.rows
    if choice == "first":
        return answers.rows[:1]
    if choice == "random":
        drawn_by = f"{seed}:{answers.key}".encode("utf-8", "surrogatepass")  # the key has every column of the row
        return [random.Random(drawn_by).choice(answers.rows)]
    scores = [score for score in answers.scores if score is not None]
    if len(scores) < len(answers.rows):
        raise RowRejected("no_score", f"{len(scores)} scores for {len(answers.rows)} rejected answers")
    return [answers.rows[scores.index(min(scores))]]
