"""The layout of the package: imports point one way, trl is used in one module, light packages stay light."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "orpo_cli"
ORDER = [  # each package imports those above it; packages of one line do not import each other
    {"control_characters", "memory_dataset", "secret_patterns"},
    {
        "errors",
        "machine",
        "secret_values",
        "hub_status",
        "cache_dir",
        "digests",
        "file_kind",
        "file_lock",
        "interruption",
        "library_messages",
        "nearest_path",
        "run_attempts",
        "statistics",
    },
    {"child_process", "library_imports", "os_errors", "temporary_directory"},
    {"atomic", "checkpoint_manifest", "json_files", "redaction", "run_lock"},
    {"json_cache"},
    {"digest_cache"},
    {"cache_entry", "run_log", "run_records", "run_result"},
    {"recipe"},
    {"planning"},
    {"rundir", "estimate", "watchdogs"},
    {"run_creation"},
    {"run_status"},
    {"model"},
    {"data"},
    {"evaluation", "report"},
    {"training"},
    {"verify"},
    {"merging"},
    {"exporting"},
    {"card"},
    {"hub"},
    {"launch"},
    {"sweep"},
    {"workflows"},
    {"api"},
    {"cli"},
]
LEVEL = {package: level for level, packages in enumerate(ORDER) for package in packages}
LIGHT = {
    "control_characters",
    "secret_patterns",
    "errors",
    "machine",
    "secret_values",
    "hub_status",
    "cache_dir",
    "digests",
    "file_kind",
    "file_lock",
    "os_errors",
    "temporary_directory",
    "interruption",
    "nearest_path",
    "atomic",
    "checkpoint_manifest",
    "json_files",
    "redaction",
    "run_log",
    "run_attempts",
    "run_creation",
    "run_lock",
    "cache_entry",
    "json_cache",
    "library_imports",
    "library_messages",
    "run_records",
    "run_result",
    "run_status",
    "statistics",
    "recipe",
    "planning",
}
LIGHT |= {"estimate", "rundir", "watchdogs", "launch", "sweep", "workflows", "api", "cli"}
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes"}
TRL = Path("training/trl_trainer.py")
AGENT = Path("launch/agent.py")  # a class of torch's launcher; no light file loads it
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.parts[-2:-1] != ("_recipes",))


def module_name(path: Path) -> str:
    return ".".join(("orpo_cli", *path.with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module_name(path): path for path in FILES}


def package(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, bool]]:
    """Imported modules, each with whether it is loaded with the file (not in a function, not for types alone)."""
    found: list[tuple[str, bool]] = []

    def visit(node: ast.AST, at_load: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((alias.name, at_load) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                module = child.module or ""
                inner = [f"{module}.{alias.name}" for alias in child.names]
                modules = [name for name in inner if name in MODULES]
                found.extend(
                    (name, at_load) for name in (modules if len(modules) == len(inner) else [module, *modules])
                )
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or (
                isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            ):
                visit(child, False)
            else:
                visit(child, at_load)

    visit(ast.parse((PACKAGE / path).read_text(encoding="utf-8")), True)
    return found


def imported_files(path: Path) -> set[Path]:
    return {MODULES[name] for name, _ in imports(path) if name in MODULES}


def test_no_package_imports_a_later_one() -> None:
    wrong = [
        f"{path} imports {other}"
        for path in FILES
        if package(path) in LEVEL
        for other in imported_files(path)
        if package(other) != package(path) and LEVEL.get(package(other), -1) >= LEVEL[package(path)]
    ]
    assert wrong == []


def test_no_two_files_import_each_other() -> None:
    """Also not through a third one: the files are a graph without cycles."""
    entry = Path("__init__.py")  # it offers the Python interface, which needs all others, and has the version
    graph = {path: imported_files(path) - {path, entry} for path in FILES if path != entry}
    while leaves := [path for path, needed in graph.items() if not needed & graph.keys()]:
        for path in leaves:
            del graph[path]
    circle = {str(path): sorted(str(other) for other in needed & graph.keys()) for path, needed in graph.items()}
    assert circle == {}


def test_trl_is_used_in_one_module() -> None:
    assert {path for path in FILES for name, _ in imports(path) if name.split(".")[0] == "trl"} == {TRL}


@pytest.mark.parametrize("path", [path for path in FILES if package(path) in LIGHT and path != AGENT], ids=str)
def test_light_packages_load_nothing_heavy(path: Path) -> None:
    """Neither themselves, nor through a file that they load."""
    loaded: dict[Path, Path | None] = {path: None}
    heavy = defaultdict(list)
    for each in (queue := [path]):
        for name, at_load in imports(each):
            if at_load and name.split(".")[0] in HEAVY:
                heavy[str(each)].append(name)
            if at_load and name in MODULES and MODULES[name] not in loaded:
                loaded[MODULES[name]] = each
                queue.append(MODULES[name])
    assert heavy == {}


def test_every_package_has_its_place_in_the_order() -> None:
    packages = {package(path) for path in FILES}
    assert packages - {"__init__", "__main__"} == set(LEVEL)
