"""Planning in Python: every decided value of a recipe, the estimates, and what its data warns of."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from orpo_cli.api.arguments import Overrides
from orpo_cli.api.dataset_messages import name_dataset, naming_datasets
from orpo_cli.api.in_memory import SavedObject, save_objects
from orpo_cli.api.messages import in_python, problem_in_python
from orpo_cli.api.quiet import console_of_call
from orpo_cli.api.recipe import RecipeSource, resolve_recipe
from orpo_cli.errors import Problem, UsageError
from orpo_cli.planning.plan import ModelPlan, Plan

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from orpo_cli.data.dropped_rows import DroppedRows
    from orpo_cli.data.prepare import PairTables
    from orpo_cli.data.table import PairTable
    from orpo_cli.model.model_source import ModelSource


@dataclass(frozen=True)
class PlannedTraining:
    """Plan of a recipe on this machine. ``estimate``: memory in bytes and time in seconds, as ``orpo plan --json`` shows it; None
    where the model is not known. ``estimate["training"]`` has ``steps``, ``seconds`` of the steps, ``evaluations``,
    ``evaluation_seconds`` of all of them, and input ``tokens`` of the whole training; None where one is not known. ``warnings``: values that are probably a mistake, data that ``train`` will refuse, and of local
    data the rows that are dropped or changed (of files above 4 MB, among the first pairs).
    """

    plan: Plan
    estimate: dict[str, Any] | None
    warnings: tuple[Problem, ...]
    _model: ModelSource[ModelPlan] = field(repr=False)
    _saved: dict[str, SavedObject] = field(repr=False)

    @cached_property
    def data(self) -> dict[str, Any]:
        """The data report, as data_report.json of a run has it: rows read, kept and dropped, with reasons and examples.

        It prepares all pairs as ``train`` does, which then finds them in the cache; loads the tokenizer and no weights. Raises
        DataError where ``train`` will refuse the data, HubError.
        """
        return self._tables.report.as_dict()

    def pairs(self, *rows: str | int, first: int = 3, part: Literal["train", "eval"] = "train") -> list[dict[str, Any]]:
        """Pairs token by token, as ``orpo data --json`` shows them: those of ``rows``, or the ``first`` ones of ``part``.

        ``rows``: numbers of pairs, or names of rows such as ``"train_dataset:17"``. Each pair has its ``part`` (train or eval), number
        (``pair``), ``row``, and lists of ``TokenSpan`` (text, ids, purpose) as ``prompt``, ``chosen`` and ``rejected``. A dropped row has only its
        ``row`` and, as ``dropped``, why. Raises UsageError for a row that does not exist, and the errors of ``data``.
        """
        from orpo_cli.model.tokenizer import load_tokenizer
        from orpo_cli.workflows.data import pairs_of_rows, spans_of_pairs

        parts, names = self._tables, [str(row) for row in rows]
        with console_of_call(verbose=False), naming_datasets(self._saved):
            table = parts.train if part == "train" else parts.eval
            if table is None:
                raise UsageError("part: the recipe holds no pairs out.", remedy="Leave part out, or set dataset.eval.")
            shown: dict[str, PairTable] = {part: table.select(range(min(first, len(table))))}
            dropped: dict[str, str] = {}
            if names:
                shown, dropped = pairs_of_rows(self.plan, parts, load_tokenizer(self._model), names)
            reasons = [{"row": row, "dropped": in_python(text)} for row, text in dropped.items()]
            return [*spans_of_pairs(self.plan, parts, shown), *reasons]

    def dropped(self, first: int = 1000) -> list[dict[str, Any]]:
        """The ``first`` rows and pairs that are not used: ``part``, ``row``, ``reason``, ``detail``, and ``texts``, the prompt and the answers.

        It reads the data again. ``texts`` of a row that is no pair is its content as JSON. Raises the errors of ``data``.
        """
        from orpo_cli.data.dropped_rows import DroppedRows

        found = DroppedRows(first)
        self._prepare(found)
        return [asdict(row) for row in found.rows]

    @cached_property
    def _tables(self) -> PairTables:
        return self._prepare()

    def _prepare(self, dropped: DroppedRows | None = None) -> PairTables:
        from orpo_cli.data.prepare import prepare_tables
        from orpo_cli.model.tokenizer import load_tokenizer
        from orpo_cli.workflows.data import prepare_options

        with console_of_call(verbose=False) as console, naming_datasets(self._saved):
            tokenizer, options = load_tokenizer(self._model, console.note), prepare_options(self.plan, console.note)
            return prepare_tables(self.plan.dataset, tokenizer, dropped=dropped, **options)

    def __repr__(self) -> str:
        model, count = self.plan.model.model_name_or_path, len(self.warnings)
        return f"PlannedTraining({self.plan.name!r}, model={model!r}, {count} warning{'s' * (count != 1)})"


def plan(
    recipe: RecipeSource,
    *,
    overrides: Overrides = (),
    train_dataset: Dataset | None = None,
    eval_dataset: Dataset | None = None,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    gpu_memory: float | None = None,
    strict: bool = False,
    verbose: bool = False,
) -> PlannedTraining:
    """Decide every value of a recipe on this machine, and estimate memory and time; weights are not downloaded.

    The arguments are those of ``train``; ``verbose`` prints what ``orpo plan`` prints. ``gpu_memory``: plan for a machine with GPUs of so
    many GB (1e9 bytes), such as 24. Raises RecipeError, UsageError, MachineError (such as a package of the model that is
    not installed) and HubError; with ``strict``, also DataError for data that ``train`` will refuse, which is a warning otherwise.
    """
    from orpo_cli.report.estimate_view import estimate_document
    from orpo_cli.report.plan_screen import print_plan
    from orpo_cli.report.plan_steps import few_steps_warnings, planned_steps
    from orpo_cli.workflows.estimate import count_rows
    from orpo_cli.workflows.plan import build_plan

    with console_of_call(verbose) as console:
        saved = save_objects(train_dataset, eval_dataset, model, tokenizer)
        loaded = resolve_recipe(recipe, overrides, strict=strict, saved=saved)
        with naming_datasets(saved):
            result = build_plan(loaded, console, to_train=False, strict=strict, gpu_memory=gpu_memory)
        inputs = result.estimate_inputs
        rows = count_rows(result.plan)
        estimate = None if inputs is None else estimate_document(result.plan, inputs, rows, compare=False)
        if verbose:
            where = "every value with its reason: plan(…).plan.why"
            print_plan(result.plan, inputs, estimate, rows, console, every_value=where)
    if estimate is not None:
        estimate["data_notes"] = list(map(in_python, estimate["data_notes"]))
    warnings = [*loaded.warnings, *result.warnings]
    if inputs is not None and all(each.code != "data-refused" for each in warnings):
        known = {(each.code, each.path) for each in warnings}
        warnings += [each for each in inputs.lengths.warnings if (each.code, each.path) not in known]
        pairs = len(inputs.lengths.pairs) if inputs.lengths.measured else rows
        warnings += few_steps_warnings(result.plan, planned_steps(result.plan, pairs), pairs)
    found = tuple(problem_in_python(name_dataset(each, saved)) for each in warnings)
    return PlannedTraining(result.plan, estimate, found, result.source, saved)
