"""Assertions over the metrics of a run: ``eval.accuracy[-1] > 0.7``, for continuous integration and for choosing a run.

The expression is parsed as Python, but never evaluated as Python: only the nodes listed here have a meaning. An evaluation whose
value was not a finite number keeps its place, so that ``eval.loss[-1]`` is never that of an earlier evaluation.

    metrics      loss, rewards/margins, margin, eval.accuracy, tuned.accuracy, run.seconds, …: the values in the order of steps
    choice       loss[-1], loss[0], loss[-5:]
    functions    min, max, mean, first, last, len of a metric; abs of a number
    arithmetic   +, - and * of numbers
    comparisons  <, <=, >, >=, ==, !=, also 0.5 < x < 0.9; and, or, not, brackets
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from orpo_cli.errors import UsageError
from orpo_cli.recipe.did_you_mean import closest_name
from orpo_cli.report.run_history import RunHistory

Series = list[float | None]  # None: an evaluation whose value was not a finite number
Value = float | bool | Series
_SLASH = "__slash__"  # a name such as rewards/margins, which would be a division
_SLASHED_NAME = re.compile(r"(?<![\w.])([A-Za-z_][\w.]*)/([A-Za-z_]\w*)")
MAX_CHARACTERS = 1000
_COMPARE: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[[list[float]], float]] = {
    "min": min, "max": max, "mean": fmean, "len": len,
}  # fmt: skip
_PLACES = {"first": 0, "last": -1}
_METRIC_OF_EVALUATIONS = re.compile(r"eval[._]([\w./]+)")
GRAMMAR = "An expression has metrics (eval.accuracy), indices ([-1], [-5:]), min, max, mean, first, last, len, abs, + - *, comparisons, and, or, not."


@dataclass(frozen=True)
class Assertion:
    """Result of one assertion: whether it holds, and the values that it was decided by."""

    expression: str
    holds: bool
    values: dict[str, float] = field(default_factory=dict)  # by the part of the expression: ``eval.accuracy[-1]``

    def text(self) -> str:
        """One line: the expression, the outcome, the values."""
        values = ", ".join(f"{part} is {value:.6g}" for part, value in self.values.items())
        return f"{self.expression}: {'holds' if self.holds else 'does not hold'}{f' ({values})' if values else ''}"


def check_assertion(history: RunHistory, expression: str) -> Assertion:
    """Evaluate one assertion. Raises UsageError for an unknown metric and for what is not an assertion."""
    evaluation = _Evaluation(history, expression)
    holds = evaluation.result()
    if not isinstance(holds, bool):
        raise evaluation.error(
            "it is a value, and compares nothing", "For example: --assert 'eval.accuracy[-1] > 0.7'."
        )
    return Assertion(expression, holds, evaluation.values)


def check_assertions(history: RunHistory, expressions: Sequence[str]) -> list[Assertion]:
    """Evaluate all assertions for one run. Raises UsageError as ``check_assertion``."""
    return [check_assertion(history, expression) for expression in expressions]


def expression_value(history: RunHistory, expression: str) -> float | None:
    """The number of an expression such as ``eval.accuracy``, ``max(eval.accuracy)`` or ``run.seconds``.

    Of a metric without a choice it is the last value, and of an evaluation that of the saved weights.
    None where the run, or that evaluation, has no value of the metric. Raises UsageError for what is not such an expression.
    """
    evaluation = _Evaluation(history, expression)
    try:
        value = evaluation.result()
    except _NoValue:
        return None
    if isinstance(value, bool):
        raise evaluation.error(
            "it is a comparison, and gives no number", "For example: eval.accuracy, max(eval.accuracy)."
        )
    if not isinstance(value, list):
        return value
    name = _METRIC_OF_EVALUATIONS.fullmatch(expression.strip())
    if name is None or not history.saved_eval:
        return value[-1]
    saved = history.metric(f"saved.{name[1]}")
    return saved[0] if saved else None


class _NoValue(UsageError):
    """The run has no value of a metric, or too few."""


class _Evaluation:
    """Evaluation of one expression for one run."""

    def __init__(self, history: RunHistory, expression: str) -> None:
        self.history = history
        self.expression = expression
        self.values: dict[str, float] = {}

    def result(self) -> Value:
        text = _SLASHED_NAME.sub(rf"\1{_SLASH}\2", self.expression.strip())
        try:
            if len(text) > MAX_CHARACTERS:
                raise self.error(f"it has more than {MAX_CHARACTERS} characters", GRAMMAR)
            body = ast.parse(text, mode="eval").body
            return self._value(body)
        except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
            reason = (
                error.msg if isinstance(error, SyntaxError) else "it is too long, or has characters that it cannot have"
            )
            raise self.error(reason, GRAMMAR) from error

    def error(self, reason: str, remedy: str) -> UsageError:
        return UsageError(f"{self.expression!r}: {reason}.", remedy=remedy)

    def _value(self, node: ast.expr) -> Value:
        match node:
            case ast.Constant(value=bool()):
                pass
            case ast.Constant(value=int() | float() as number):
                return float(number)
            case ast.Name() | ast.Attribute():
                return self._metric(node)
            case ast.Subscript(value=inner):
                return self._chosen(node, self._series(inner))
            case ast.Call(func=ast.Name(id="abs"), args=[argument], keywords=[]):
                return abs(self._number(argument))
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _PLACES:
                return self._recorded(node, self._series(argument)[_PLACES[name]])
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
                values = [each for each in self._series(argument) if each is not None]
                return self._recorded(node, float(_FUNCTIONS[name](values)))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._number(operand)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self._truth(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return _ARITHMETIC[type(op)](self._number(left), self._number(right))
            case ast.BoolOp(op=op, values=operands):
                truths = [self._truth(each) for each in operands]  # all of them, so that every value is reported
                return all(truths) if isinstance(op, ast.And) else any(truths)
            case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARE for op in ops):
                numbers = [self._number(each) for each in (left, *others)]
                pairs = zip(ops, numbers, numbers[1:], strict=False)
                return all(_COMPARE[type(op)](one, other) for op, one, other in pairs)
        raise self.error(f"{_source(node)} has no meaning in an assertion", GRAMMAR)

    def _metric(self, node: ast.expr) -> Series:
        name = _source(node)
        if not re.fullmatch(r"[A-Za-z_][\w./]*", name):
            raise self.error(f"{name} is not the name of a metric", GRAMMAR)
        values = self.history.metric(name)
        if not values and self.history.lacks_evaluation_of(name):
            raise _NoValue(
                f"{self.expression!r}: {name} is a metric of `orpo eval`, which has not evaluated {self.history.path}.",
                remedy=f"Run `orpo eval {self.history.path}` first.",
            )
        if not values:
            known = self.history.metric_names()
            close = closest_name(name, known)
            listed = (
                f"It has: {', '.join(known)}." if known else "It has none: it has not reached its first logged step."
            )
            raise _NoValue(
                f"{self.expression!r}: {self.history.path} has no metric {name!r}.",
                remedy=f"Did you mean `{close}`? The run has {len(known)} metrics." if close else listed,
            )
        return self.history.evaluation_values(name) or [*values]

    def _series(self, node: ast.expr) -> Series:
        value = self._value(node)
        if not isinstance(value, list):
            raise self.error(f"{_source(node)} is one value, not a metric", GRAMMAR)
        return value

    def _chosen(self, node: ast.Subscript, values: Series) -> Value:
        if isinstance(node.slice, ast.Slice):
            start, stop, step = (
                None if each is None else self._index(each)
                for each in (node.slice.lower, node.slice.upper, node.slice.step)
            )
            chosen = values[slice(start, stop, step or None)]
            if not chosen:
                raise _NoValue(f"{self.expression!r}: {_source(node)} is empty: there are {len(values)} values.")
            if None in chosen:
                raise self._not_finite(node)
            return chosen
        index = self._index(node.slice)
        try:
            return self._recorded(node, values[index])
        except IndexError:
            raise _NoValue(
                f"{self.expression!r}: {_source(node)} does not exist: there are {len(values)} values."
            ) from None

    def _index(self, node: ast.expr) -> int:
        number = self._number(node)
        if not number.is_integer():
            raise self.error(f"{_source(node)} is not an index", GRAMMAR)
        return int(number)

    def _number(self, node: ast.expr) -> float:
        value = self._value(node)
        if isinstance(value, bool):
            raise self.error(f"{_source(node)} is a comparison, not a number", GRAMMAR)
        if isinstance(value, list):
            if len(value) > 1:
                name = _source(node)
                raise self.error(
                    f"{name} has {len(value)} values",
                    f"Choose one: {name}[-1], min({name}), max({name}), mean({name}).",
                )
            return self._recorded(node, value[0])
        return value

    def _truth(self, node: ast.expr) -> bool:
        value = self._value(node)
        if not isinstance(value, bool):
            raise self.error(f"{_source(node)} compares nothing", GRAMMAR)
        return value

    def _recorded(self, node: ast.expr, value: float | None) -> float:
        if value is None:
            raise self._not_finite(node)
        self.values[_source(node)] = value
        return value

    def _not_finite(self, node: ast.expr) -> _NoValue:
        return _NoValue(
            f"{self.expression!r}: {_source(node)} has no value in {self.history.path}: the evaluation has no finite number there.",
            remedy="Choose another evaluation by its index; min, max and mean of all evaluations leave such values out.",
        )


def _source(node: ast.expr) -> str:
    return ast.unparse(node).replace(_SLASH, "/")
