"""`orpo explain`: print why a problem code exists, an example, and how to repair it; or what a key of a recipe does."""

from __future__ import annotations

import textwrap
from typing import Annotated

import typer

from orpo_cli.cli.completion import complete_code_or_key, complete_recipe
from orpo_cli.cli.options import Json
from orpo_cli.errors import UsageError
from orpo_cli.recipe.explanations import problem_codes, read_explanation
from orpo_cli.report.console import Console


def command(
    code: Annotated[
        str | None,
        typer.Argument(
            metavar="CODE_OR_KEY",
            autocompletion=complete_code_or_key,
            help="The code at the end of a message, a key of a recipe, or the reason of a dropped row; without it, list all codes.",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            autocompletion=complete_recipe,
            help="With a key: also show its value in the plan of this recipe, and the reason.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Explain a problem code or a key of a recipe.

    For a code: why the rule exists, a recipe that breaks it, and the repaired
    recipe. Messages about a recipe, a plan or a running training end with the
    code in brackets. For a key: what it does, its type, default and allowed values.
    For the reason of a dropped row, such as empty_chosen: what it means.

    [bold]Examples[/bold]

      orpo explain bf16-and-fp16
      orpo explain training.beta
      orpo explain training.beta my.yaml
      orpo explain
      orpo explain unknown-key --json
    """
    console = Console(as_json=as_json)
    if code is None:
        _list_codes(console)
    elif code not in problem_codes() and _is_drop_reason(code):
        _explain_reason(code, console)
    elif "." in code or "_" in code or (code not in problem_codes() and _is_key(code)):
        _explain_key(code, recipe, console)
    elif recipe is not None:
        raise UsageError(
            f"{recipe} does nothing here: {code} is not a key.", remedy="Leave it out, or give a key of the recipe."
        )
    else:
        explanation = read_explanation(code)
        console.result(explanation.text())
        console.document(explanation)


def _list_codes(console: Console) -> None:
    summaries = {each: read_explanation(each).summary for each in problem_codes()}
    width = max(map(len, summaries))
    console.result("\n".join(f"{each:{width}}  {summary}" for each, summary in summaries.items()))
    console.document({"codes": [{"code": each, "summary": summary} for each, summary in summaries.items()]})


def _is_key(text: str) -> bool:
    """Whether ``text``, which is no code, is a key or more similar to a key than to a code."""
    from orpo_cli.recipe.did_you_mean import closest_name
    from orpo_cli.recipe.key_reference import read_key

    try:
        read_key(text)
    except UsageError as error:
        return closest_name(text, problem_codes()) is None and "Did you mean" in (error.remedy or "")
    return True


def _is_drop_reason(text: str) -> bool:
    from orpo_cli.data.filters import REASONS

    return text in REASONS


def _explain_reason(reason: str, console: Console) -> None:
    """Why `orpo data` and `orpo train` drop a row."""
    from orpo_cli.data.filters import REASONS, REMEDIES
    from orpo_cli.recipe.schema import PairRules

    lines = [f"A row is dropped as {reason}: {REASONS[reason]}.", REMEDIES.get(reason, "")]
    lines += [f"The filter is dataset.rules.{reason}."] if reason in PairRules.model_fields else []
    lines.append(
        "`orpo data RECIPE` counts these rows, and `orpo data RECIPE --html FILE` lists them with their texts."
    )
    console.result("\n".join(filter(None, lines)))
    console.document({"reason": reason, "meaning": REASONS[reason], "remedy": REMEDIES.get(reason)})


def _explain_key(key: str, recipe: str | None, console: Console) -> None:
    from orpo_cli.recipe.key_reference import read_key
    from orpo_cli.report.plan_view import format_value, is_empty_default

    reference = read_key(key)
    lines = reference.lines()
    document = {**vars(reference)}
    if recipe is not None:
        from orpo_cli.workflows.explain import planned_values

        values = planned_values(key if "." in key else reference.key, recipe, console)
        shown = [each for each in values if not is_empty_default(each)]
        lines += ["", f"## In {recipe}", ""]
        lines += [f"{each['path']} = {format_value(each['value'])}  # {each['reason']}" for each in shown]
        lines += [] if shown else [f"{reference.key} is not set, so the default applies."]
        document |= {"recipe": recipe, "plan": values}
    if console.stdout.isatty():
        lines = [_wrap(line, console.out.width - 1) for line in lines]
    console.result("\n".join(lines))
    console.document(document)


def _wrap(line: str, width: int) -> str:
    indent = "  " if line.startswith("- ") else ""
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
