"""IFEval scores: the checks of lm-evaluation-harness on the answers, and the four accuracies of the paper (arXiv 2311.07911).

The checks are those of the package ``lm_eval``, called with its own function, so that the figures equal its figures.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

from orpo_cli.errors import DataError, MachineError
from orpo_cli.evaluation.benchmarks.figures import Values
from orpo_cli.evaluation.benchmarks.questions import Question

SEED = 0  # of the language detection, which samples; the harness leaves it unseeded
PUNKT = "tokenizers/punkt_tab/english"
INSTALL = "pip install 'orpo-cli[benchmark]'"
PACKAGES = ("lm_eval", "langdetect", "nltk")  # whose versions decide a score


@dataclass(frozen=True)
class Verdict:
    """Which instructions of one prompt an answer follows, strictly and in the best of eight loose variants of it."""

    strict: list[bool]
    loose: list[bool]


def check_scorer() -> None:
    """Raise MachineError where the checks or the data that they need are missing. Called before a model is loaded."""
    try:
        import nltk
    except ImportError as error:
        raise _missing_package(error) from error
    try:
        nltk.data.find(PUNKT)
    except LookupError as error:
        raise MachineError(
            "IFEval counts sentences with NLTK's punkt_tab data, which is not installed.",
            remedy="Download it: `python -m nltk.downloader punkt_tab`. Without network, copy the folder "
            "tokenizers/punkt_tab of NLTK's data into ~/nltk_data, or name its parent folder in NLTK_DATA.",
        ) from error
    try:
        import lm_eval.tasks.ifeval.utils  # noqa: F401
    except ImportError as error:
        raise _missing_package(error) from error


def score_answers(questions: Sequence[Question], texts: Sequence[str]) -> list[Verdict]:
    """The verdict of each answer. Raises DataError for a question with an unknown instruction."""
    import langdetect
    from lm_eval.tasks.ifeval.utils import process_results

    state = random.getstate()  # a check whose letter is not one, such as "#", takes a random one instead
    langdetect.DetectorFactory.seed = SEED
    try:
        verdicts = []
        for question, text in zip(questions, texts, strict=True):
            random.seed(SEED)  # for each, so that a verdict does not depend on the other questions
            try:
                found = process_results({"key": question.key, **question.row}, [text])
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"question {question.key}: lm_eval cannot check it: {error!r}.",
                    remedy="Give the questions of IFEval, or install the version of lm-eval that knows these instructions.",
                ) from error
            verdicts.append(
                Verdict(list(map(bool, found["inst_level_strict_acc"])), list(map(bool, found["inst_level_loose_acc"])))
            )
        return verdicts
    finally:
        random.setstate(state)


def accuracy_values(verdicts: Sequence[Verdict]) -> Values:
    """The values behind the four accuracies, by the names of the harness: for each prompt, and for each instruction."""
    return {
        "prompt_level_strict_acc": [all(each.strict) for each in verdicts],
        "inst_level_strict_acc": [passed for each in verdicts for passed in each.strict],
        "prompt_level_loose_acc": [all(each.loose) for each in verdicts],
        "inst_level_loose_acc": [passed for each in verdicts for passed in each.loose],
    }


def verdict_lines(questions: Sequence[Question], texts: Sequence[str], verdicts: Sequence[Verdict]) -> str:
    """JSON lines of answers with their verdicts. The evaluation script of the paper reads ``prompt`` and ``response``."""
    rows = (
        {
            "key": question.row.get("key"),
            "prompt": question.row["prompt"],
            "response": text,
            "instruction_id_list": question.row["instruction_id_list"],
            "strict": verdict.strict,
            "loose": verdict.loose,
        }
        for question, text, verdict in zip(questions, texts, verdicts, strict=True)
    )
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _missing_package(error: ImportError) -> MachineError:
    return MachineError(
        f"IFEval is scored by the package lm_eval, which cannot be imported: {error}.", remedy=f"Install it: {INSTALL}"
    )
