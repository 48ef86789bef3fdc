"""Example configurations of other tools, converted."""

from __future__ import annotations

from pathlib import Path

from orpo_cli.recipe.convert.convert import Conversion, convert

EXAMPLES_DIR = Path(__file__).parents[1] / "recipes" / "convert"
EXAMPLES = sorted(path.name for path in EXAMPLES_DIR.iterdir() if not path.name.endswith(".values.yaml"))


def convert_example(name: str) -> Conversion:
    return convert((EXAMPLES_DIR / name).read_text(encoding="utf-8"), name)


def outcome_of(conversion: Conversion, key: str) -> str:
    return {outcome.key: outcome.outcome for outcome in conversion.outcomes}[key]
