"""Shell completion of recipes, runs, models, problem codes and `--set` keys; imports no library that takes long.

Typer's script for bash splits words at `=` and adds a space after each completion, so that neither a value after `--set KEY=` nor a
path below a folder can be completed. The script here does both.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

RECIPE_SUFFIXES = (".yaml", ".yml")

BASH_SCRIPT = """
%(complete_func)s() {
    local line="${COMP_LINE:0:$COMP_POINT}" words current IFS=$' \\t\\n'
    read -ra words <<< "$line"
    local count=$((${#words[@]} - 1))
    [[ $line == *[[:space:]] ]] && count=$((count + 1))
    current="${words[$count]}"
    IFS=$'\\n'
    COMPREPLY=( $( env COMP_WORDS="$line" COMP_CWORD=$count %(autocomplete_var)s=complete_bash $1 ) )
    if [[ $current == *=* && $COMP_WORDBREAKS == *=* ]]; then  # bash replaces only what follows the last =
        COMPREPLY=( "${COMPREPLY[@]#"${current%%=*}="}" )
    fi
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=/] ]] && compopt -o nospace
    return 0
}

complete -o default -F %(complete_func)s %(prog_name)s
"""


def use_own_bash_script() -> None:
    """Let `--install-completion` and `--show-completion` give the script of this module; for other shells typer's are used."""
    if {"--install-completion", "--show-completion"} & set(sys.argv[1:]):
        from typer import _completion_shared

        _completion_shared._completion_scripts["bash"] = BASH_SCRIPT


def words_to_complete() -> list[str]:
    """The words after `orpo` of the command line that a shell asks to complete; empty where this is no completion."""
    if not os.environ.get("_ORPO_COMPLETE", "").startswith("complete_"):
        return []
    return (os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or "").split()[1:]


def complete_recipe(incomplete: str) -> list[str]:
    """Names of shipped recipes, and paths of recipe files."""
    return [*complete_shipped(incomplete), *_paths(incomplete, lambda entry: entry.name.endswith(RECIPE_SUFFIXES))]


def complete_shipped(incomplete: str) -> list[str]:
    """Names of shipped recipes."""
    from orpo_cli.errors import OrpoError
    from orpo_cli.recipe.source.shipped_recipes import shipped_folder

    try:
        names = sorted(path.stem for path in shipped_folder().rglob("*.yaml"))
    except OrpoError:
        return []
    return _starting(incomplete, names)


def complete_run(incomplete: str) -> list[str]:
    """Paths of run directories."""
    return list(_paths(incomplete, _is_run))


def complete_resume(incomplete: str) -> list[str]:
    """``auto``, ``never`` and paths of checkpoints."""
    checkpoints = _paths(incomplete, lambda entry: entry.name.startswith("checkpoint-"))
    return [*_starting(incomplete, ("auto", "never")), *checkpoints]


def complete_run_or_model(incomplete: str) -> list[str]:
    """Paths of run directories, model folders and .gguf files."""

    def is_model(entry: os.DirEntry[str]) -> bool:
        return entry.name.endswith(".gguf") or Path(entry, "config.json").is_file()

    return list(_paths(incomplete, lambda entry: _is_run(entry) or is_model(entry)))


def complete_run_or_recipe(incomplete: str) -> list[str]:
    """Paths of run directories, names of shipped recipes and paths of recipe files."""
    return list(dict.fromkeys([*complete_run(incomplete), *complete_recipe(incomplete)]))


def complete_code_or_key(incomplete: str) -> list[str]:
    """Problem codes, and keys of a recipe that begin with what is written so far."""
    from orpo_cli.recipe.explanations import problem_codes

    codes = _starting(incomplete, problem_codes())
    if not incomplete:
        return codes
    from orpo_cli.recipe.schema import Recipe

    return [*codes, *_starting(incomplete, (name for name, _ in _keys(Recipe, "")))]


def complete_override(incomplete: str) -> list[str]:
    """Keys of a recipe for `--set`, as ``section.key=``, and after the sign the values of a key that has a fixed set of them."""
    from orpo_cli.recipe.schema import Recipe

    keys = dict(_keys(Recipe, ""))
    key, sign, _ = incomplete.partition("=")
    if not sign:
        return _starting(incomplete, (f"{each}=" for each in keys))
    values = list(_values(keys.get(key)))
    if values == ["null"]:  # a number or a text: the shell would insert the only completion
        return []
    return _starting(incomplete, (f"{key}={value}" for value in values))


def _keys(section: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """(dotted name, type) of each value below a section of the schema."""
    for name, field in section.model_fields.items():
        inner = next((each for each in _members(field.annotation) if hasattr(each, "model_fields")), None)
        if inner is None:
            yield f"{prefix}{name}", field.annotation
        else:
            yield from _keys(inner, f"{prefix}{name}.")


def _members(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type; without ``Annotated``."""
    if hasattr(annotation, "__metadata__"):
        return _members(annotation.__origin__)
    if get_origin(annotation) in (Union, UnionType):
        return tuple(inner for each in get_args(annotation) for inner in _members(each))
    return (annotation,)


def _values(annotation: Any) -> Iterator[str]:
    for each in _members(annotation):
        if get_origin(each) is Literal:
            yield from map(_yaml_text, get_args(each))
        elif each is bool:
            yield from ("true", "false")
        elif each is type(None) and annotation is not None:
            yield "null"


def _yaml_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _starting(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _is_run(entry: os.DirEntry[str]) -> bool:
    return any(Path(entry, name).is_file() for name in ("run.json", "plan.json"))


def _paths(incomplete: str, is_wanted: Callable[[os.DirEntry[str]], bool]) -> Iterator[str]:
    """Paths that begin with ``incomplete``: wanted entries, and other folders with a slash at the end."""
    folder, slash, start = incomplete.rpartition("/")
    try:
        with os.scandir(os.path.expanduser(f"{folder}{slash}" or ".")) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            if not entry.name.startswith(start) or (entry.name.startswith(".") and not start.startswith(".")):
                continue
            if is_wanted(entry):
                yield f"{folder}{slash}{entry.name}"
            elif entry.is_dir():
                yield f"{folder}{slash}{entry.name}/"
    except OSError:  # no such folder, or no permission
        return
