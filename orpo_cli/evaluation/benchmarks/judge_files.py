"""Answer files for judges: AlpacaEval's model_outputs and MT-Bench's model_answer, with the fields that their tools read.

AlpacaEval: ``evaluate_from_model`` in alpaca_eval/main.py. MT-Bench: ``get_model_answers`` in fastchat/llm_judge/gen_model_answer.py.
Both tools strip the answers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from orpo_cli.evaluation.benchmarks.questions import Question

# Temperature of each category of MT-Bench: ``temperature_config`` in fastchat/llm_judge/common.py; 0.7 for any other one.
MT_BENCH_TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
OTHER_TEMPERATURE = 0.7


def mt_bench_temperature(question: Question) -> float:
    """The sampling temperature of a question of MT-Bench."""
    return MT_BENCH_TEMPERATURES.get(question.row["category"], OTHER_TEMPERATURE)


def alpaca_eval_text(questions: Sequence[Question], answers: Sequence[str], generator: str) -> str:
    """A JSON list for ``alpaca_eval --model_outputs``, in the order of the questions, which the reference answers have."""
    rows = [
        {
            **({"dataset": question.row["dataset"]} if "dataset" in question.row else {}),
            "instruction": question.row["instruction"],
            "output": answer.strip(),
            "generator": generator,
        }
        for question, answer in zip(questions, answers, strict=True)
    ]
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def mt_bench_text(questions: Sequence[Question], answers: Sequence[Sequence[str]], model_id: str, time: float) -> str:
    """JSON lines for ``data/mt_bench/model_answer/MODEL_ID.jsonl``, sorted by question. ``answers``: of each turn."""
    rows: list[dict[str, Any]] = []
    for question, turns in zip(questions, answers, strict=True):
        choice = {"index": 0, "turns": [turn.strip() for turn in turns]}
        rows.append(
            {
                "question_id": question.row["question_id"],
                "answer_id": _answer_id(model_id, question.key, choice["turns"]),
                "model_id": model_id,
                "choices": [choice],
                "tstamp": time,
            }
        )
    rows.sort(key=lambda row: row["question_id"])
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _answer_id(*content: object) -> str:
    """An identifier with the length of a shortuuid, which is the same for the same answer."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:22]
