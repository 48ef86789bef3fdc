"""Imports point one way, TRL stands behind one door, and light rooms stay light."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "orpo_cli"
ORDER = [
    {"errors", "hidden", "hub_access", "whole", "caches"}, {"recipe"}, {"machine"}, {"plan"}, {"rundir"}, {"data", "model"}, {"training"},
    {"artifacts", "evaluation"}, {"report"}, {"cli"},
]  # fmt: skip
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
LIGHT = ("recipe", "plan", "cli", "machine", "rundir", "errors", "hidden", "hub_access", "caches")
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes"}


def imports(path: Path) -> list[tuple[str, bool]]:
    """Every imported module of a file, and whether it is imported when the file is (not in a function, not for types)."""
    found: list[tuple[str, bool]] = []

    def visit(node: ast.AST, at_load: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((alias.name, at_load) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                found.append((child.module or "", at_load))
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or (
                isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            ):
                visit(child, False)
            else:
                visit(child, at_load)

    visit(ast.parse(path.read_text()), True)
    return found


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def modules() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if room(path) in LEVEL]


def test_no_room_imports_a_later_one() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in modules()
        for name, _ in imports(path)
        if name.startswith("orpo_cli.") and LEVEL.get(name.split(".")[1], -1) > LEVEL[room(path)]
    ]
    assert wrong == []


def test_only_training_imports_trl() -> None:
    users = {room(path) for path in modules() for name, _ in imports(path) if name.split(".")[0] == "trl"}
    assert users == {"training"}


def test_light_rooms_import_nothing_heavy_when_loaded() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in modules()
        if room(path) in LIGHT
        for name, at_load in imports(path)
        if at_load and name.split(".")[0] in HEAVY
    ]
    assert wrong == []


def test_every_room_is_in_the_order() -> None:
    rooms = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"__init__", "__main__", "__pycache__", "py.typed", "_recipes"} == set(LEVEL)
