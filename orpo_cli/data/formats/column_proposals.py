"""Column proposals: the `columns:` mapping that an error message proposes for text columns which no format uses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from typing import Any

from orpo_cli.data.formats.column_values import (
    column_names,
    column_texts,
    has_sentences,
    is_label,
    is_number,
    is_prompt_value,
    nested_fields,
    no_answers,
    rows_with,
)
from orpo_cli.data.formats.column_words import (
    BETTER,
    EARLIER,
    LABEL,
    LATER,
    NOT_BETTER,
    RANK,
    RESPONSE,
    RESPONSE_NAMES,
    SCORE,
    VERDICT,
)  # fmt: skip
from orpo_cli.data.formats.judged import LABEL_COLUMNS, SIGNED_LABELS, TIE_LABELS, read_verdict
from orpo_cli.data.formats.kto import read_label
from orpo_cli.data.formats.prompt_columns import (
    columns_line,
    is_prompt_name,
    prompt_candidates,
    prompt_rank,
)
from orpo_cli.data.formats.scored import PROMPTS, RANKS, RESPONSES, SCORES, answer_keys, is_list_of

JUDGED_NAMES = {  # ends of two columns' names → their names in the format judged, whose labels refer to the ends
    ("a", "b"): ("response_a", "response_b"),
    ("1", "2"): ("response_1", "response_2"),
    ("0", "1"): ("response_0", "response_1"),
}


def propose_columns(rows: Sequence[Any]) -> dict[str, str] | None:
    """Mapping (format's name → data's name) for rows without a known format.

    None where no two columns are named as a better and a worse answer, or belong together beside a label of the better one, and
    there is no column of answers with one of their scores. Columns may be fields within objects: ``data.prompt``.
    """
    return _propose(rows) or _propose(nested_fields(rows))


def _propose(rows: Sequence[Any]) -> dict[str, str] | None:
    if found := _propose_judged(rows) or _propose_lists(rows):
        return found
    texts = [name for name in column_names(rows) if any(is_prompt_value(row[name]) for row in rows_with(rows, name))]
    texts = [name for name in texts if not no_answers(name, rows)]
    worse = [name for name in texts if NOT_BETTER.occur_in(name)]
    better = [name for name in texts if name not in worse and BETTER.occur_in(name)]
    answers = [name for name in texts if not is_prompt_name(name) and has_sentences(name, rows)]
    if not better:
        better = [name for name in answers if name not in worse and LATER.occur_in(name)]
        others = [name for name in answers if name not in better]
        earlier = list(filter(EARLIER.occur_in, others))
        worse = worse or earlier or _only_answer(others)
    if worse and not better:
        better = _only_answer([name for name in answers if name not in worse])
    elif not worse and better and _only_answer([name for name in answers if name in better]):
        worse = _only_answer([name for name in answers if name not in better])
    if not better or not worse or (is_label(better[0], rows) and is_label(worse[0], rows)):
        return propose_rated(rows) or propose_labelled(rows)
    prompts = prompt_candidates(rows, (*better, *worse))
    mapping = {"chosen": better[0], "rejected": worse[0]}
    if prompts and (histories := [name for name in column_names(rows) if _is_history(name, rows)]):
        return {"instruction": prompts[0], "history": histories[0], **mapping}
    if prompts[:1] == ["instruction"] and "input" in column_names(rows):  # the format alpaca uses both
        return mapping
    return {"prompt": prompts[0], **mapping} if prompts else mapping


def _only_answer(names: Sequence[str]) -> list[str]:
    """The one of the columns of texts that has a word for an answer in its name, beside one that is named; empty for several."""
    found = [name for name in names if RESPONSE.occur_in(name)]
    return found if len(found) == 1 else []


def _is_history(name: str, rows: Sequence[Any]) -> bool:
    """Whether a column has earlier turns as pairs of texts: ``[["Hi", "Hello!"]]``, as LLaMA-Factory's Alpaca rows have them."""
    values = [row[name] for row in rows_with(rows, name) if row[name]]
    return bool(values) and all(
        is_list_of(value, list) and all(is_list_of(turn, str) and len(turn) == 2 for turn in value) for value in values
    )


def _propose_judged(rows: Sequence[Any]) -> dict[str, str] | None:
    """Mapping for two answers, with a column that names the better one: ``model_a`` and ``model_b`` with ``winner``."""
    names = column_names(rows)
    pairs = list(combinations(filter(partial(has_sentences, rows=rows), names), 2))
    for first, second in sorted(pairs, key=lambda pair: _judged_names(*pair) is None):
        targets = _judged_names(first, second)
        others = [name for name in names if name not in (first, second)]
        known = [name for name in others if name in (*LABEL_COLUMNS, *SIGNED_LABELS) and targets]
        labels = known or [name for name in others if _is_verdict(name, (first, second), targets, rows)]
        if labels:
            judgement = {} if labels[0] in (*LABEL_COLUMNS, *SIGNED_LABELS) else {"winner": labels[0]}
        elif targets is None or not (judgement := _scores_of_both(others, targets, rows)):
            continue
        prompts = prompt_candidates(rows, (first, second, *labels[:1], *judgement.values()))
        mapping = {
            **({"prompt": prompts[0]} if prompts else {}),
            **dict(zip(targets or JUDGED_NAMES["a", "b"], (first, second), strict=True)),
            **judgement,
        }
        return {key: name for key, name in mapping.items() if key != name}
    return None


def _propose_lists(rows: Sequence[Any]) -> dict[str, str] | None:
    """Mapping for a list of answers with their scores: objects with both, or two lists."""
    names = column_names(rows)
    lists = {name: [row[name] for row in rows_with(rows, name) if row[name]] for name in names}
    objects = [name for name in names if lists[name] and all(map(answer_keys, lists[name]))]
    texts = [name for name in names if lists[name] and all(is_list_of(each, str) for each in lists[name])]
    scores = [name for name in names if lists[name] and all(is_list_of(each, int | float) for each in lists[name])]
    if objects:
        found = {"responses": objects[0]}
    elif texts and scores:
        found = {"responses": texts[0], "ranks" if RANK.occur_in(scores[0]) else "scores": scores[0]}
    else:
        return None
    if not (prompts := prompt_candidates(rows, list(found.values()))):
        return None
    known = {"prompt": PROMPTS, "responses": RESPONSES, "scores": SCORES, "ranks": RANKS}
    return {key: name for key, name in {"prompt": prompts[0], **found}.items() if name not in known[key]}


def _judged_names(first: str, second: str) -> tuple[str, str] | None:
    """The format's names of two columns that differ in their last character only, such as ``model_a`` and ``model_b``."""
    return JUDGED_NAMES.get((first[-1:].lower(), second[-1:].lower())) if first[:-1] == second[:-1] else None


def _scores_of_both(names: Sequence[str], targets: tuple[str, str], rows: Sequence[Any]) -> dict[str, str]:
    """Mapping of two columns with the scores of the answers: ``stars_a`` and ``stars_b`` for the targets ``response_a`` and ``response_b``."""
    scores = [name for name in names if SCORE.occur_in(name[:-1]) and _has_scores(name, rows)]
    for first, second in combinations(scores, 2):
        if first[:-1] == second[:-1] and (first[-1].lower(), second[-1].lower()) == (targets[0][-1], targets[1][-1]):
            return {f"score_{targets[0][-1]}": first, f"score_{targets[1][-1]}": second}
    return {}


def propose_rated(rows: Sequence[Any], *, is_repeated: bool = True) -> dict[str, str] | None:
    """Mapping to the format helpsteer for one answer a row with its score: ``question``, ``answer`` and ``stars``.

    ``is_repeated``: whether several rows must have the same prompt, since only their answers form pairs.
    """
    scores = [name for name in column_names(rows) if SCORE.occur_in(name) and _has_scores(name, rows)]
    return _map_one_answer(rows, scores, ("response", "helpfulness"), is_repeated=is_repeated)


def propose_labelled(rows: Sequence[Any], *, is_repeated: bool = True) -> dict[str, str] | None:
    """Mapping to the format kto for one answer a row that is good or bad: ``question``, ``answer`` and ``feedback`` of up or down.

    ``is_repeated``: as in ``propose_rated``.
    """
    labels = [name for name in column_names(rows) if _has_labels(name, rows)]
    return _map_one_answer(rows, labels, ("completion", "label"), is_repeated=is_repeated)


def _map_one_answer(
    rows: Sequence[Any], judgements: Sequence[str], targets: tuple[str, str], *, is_repeated: bool
) -> dict[str, str] | None:
    """Mapping of prompt, answer and the first of ``judgements``; ``targets``: the format's names of the last two."""
    names = column_names(rows)
    answers = [name for name in names if name not in judgements and _may_be_response(name, rows)]
    answers.sort(key=_response_rank)
    if not judgements or not answers or (len(answers) > 1 and _response_rank(answers[0]) > len(RESPONSE_NAMES)):
        return None
    used = (answers[0], *judgements)
    prompts = prompt_candidates(rows, used)
    if is_repeated:
        prompts = sorted((name for name in names if name not in used and _repeats(name, rows)), key=prompt_rank)
    if not prompts:
        return None
    mapping = {"prompt": prompts[0], targets[0]: answers[0], targets[1]: judgements[0]}
    return {key: name for key, name in mapping.items() if key != name}


def _has_scores(name: str, rows: Sequence[Any]) -> bool:
    """Whether all values of a column are numbers, and not the same one."""
    values = [row[name] for row in rows_with(rows, name) if row[name] != ""]
    return all(map(is_number, values)) and len(set(map(str, values))) > 1


def _has_labels(name: str, rows: Sequence[Any]) -> bool:
    """Whether all values of a column say that an answer is good or bad, and not the same; numbers only under the name of a label."""
    values = [row[name] for row in rows_with(rows, name) if row[name] != ""]
    may_be_numbers = LABEL.occur_in(name)
    return len({read_label(value) for value in values} - {None}) == 2 and all(
        read_label(value) is not None and (may_be_numbers or not is_number(value)) for value in values
    )


def _may_be_response(name: str, rows: Sequence[Any]) -> bool:
    """Whether a column of texts may be the answers: by its name, or by sentences that differ."""
    texts = column_texts(name, rows)
    if not texts or no_answers(name, rows) or (is_prompt_name(name) and name.lower() not in RESPONSE_NAMES):
        return False
    return has_sentences(name, rows) or (_response_rank(name) <= len(RESPONSE_NAMES) and not is_label(name, rows))


def _response_rank(name: str) -> int:
    """Place among the usual names; after them a name that contains such a word, then all others."""
    if name.lower() in RESPONSE_NAMES:
        return RESPONSE_NAMES.index(name.lower())
    return len(RESPONSE_NAMES) + (not RESPONSE.occur_in(name))


def _repeats(name: str, rows: Sequence[Any]) -> bool:
    """Whether a column may be the prompts of several answers: texts or messages, some of them in several rows, that are no labels."""
    values = [row[name] for row in rows_with(rows, name) if row[name] != ""]
    texts = [json.dumps(value, default=str) for value in values] if all(map(is_prompt_value, values)) else []
    return len(set(texts)) < len(texts) and not no_answers(name, rows) and not is_label(name, rows)


def _is_verdict(column: str, answers: tuple[str, str], targets: tuple[str, str] | None, rows: Sequence[Any]) -> bool:
    """Whether every value of a column is a text that names one of two columns as the better answer, or a tie.

    ``targets``: the names that the format has for them; a value may refer to these, too: ``A`` and ``model_a`` to ``response_a``,
    and under a name such as ``better`` the number 1 to ``response_1``.
    """
    if targets and VERDICT.occur_in(column):
        given = {str(row[column]).strip().lower().removesuffix(".0") for row in rows_with(rows, column)}
        if (
            (numbers := given - TIE_LABELS)
            and numbers <= {target[-1] for target in targets}
            and all(map(is_number, numbers))
        ):
            return True
    values = {row[column] for row in rows_with(rows, column) if isinstance(row[column], str)}
    verdicts = {
        value: "named" if value in answers else targets and read_verdict({"winner": value}, targets, {})
        for value in values
        if value.strip().lower() not in TIE_LABELS and not value.strip().isdigit()
    }
    return (
        bool(verdicts)
        and all(verdicts.values())
        and (targets is not None or len(verdicts) > 1)
        and all(isinstance(row[column], str) for row in rows_with(rows, column))
    )


def columns_to_complete(rows: Sequence[Any]) -> str | None:
    """What to write for columns whose names do not say which answer is the better one: `columns:` with gaps, and candidates for them.

    Columns of one word only where there are no others. Ids, numbers, dates and labels are no answers, and of two columns that
    both are answers, none or each has a name that says so. None where two columns of answers are not found, nor two fields
    within objects.
    """
    return _to_complete(rows) or _to_complete(nested_fields(rows))


def _to_complete(rows: Sequence[Any]) -> str | None:
    texts = [name for name in column_names(rows) if column_texts(name, rows)]
    texts = [name for name in texts if not no_answers(name, rows) and not is_label(name, rows)]
    if len(sentences := [name for name in texts if has_sentences(name, rows)]) > 1:
        texts = sentences
    prompts = [name for name in texts if is_prompt_name(name)][:1] or (texts[:1] if len(texts) > 2 else [])
    answers = [name for name in texts if name not in prompts]
    if len(answers) < 2 or len({RESPONSE.occur_in(name) for name in answers[:2]}) > 1:
        return None
    if labels := [name for name in column_names(rows) if _has_labels(name, rows)]:
        line = columns_line({"prompt": "PROMPT", "completion": "ANSWER", "label": labels[0]})
        names = " and ".join(json.dumps(name, ensure_ascii=False) for name in (*prompts, *answers)[:3])
        return f"`{line}`, if {labels[0]} says which answers are good, with the columns of the prompt and of the answer in place of PROMPT and ANSWER: {names} may be these"
    line = columns_line({**({"prompt": prompts[0]} if prompts else {}), "chosen": "BETTER", "rejected": "WORSE"})
    names = " and ".join(json.dumps(name, ensure_ascii=False) for name in answers[:2])
    return f"`{line}`, with the column of the better answer in place of BETTER and that of the worse one in place of WORSE. Which of {names} is better, only you know"
