"""Documentation: generated pages are up to date; links, commands, recipes and exit codes on hand-written pages exist."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from orpo_cli.cli.commands import COMMANDS, build_app
from orpo_cli.errors import OrpoError
from orpo_cli.planning.size_defaults import DEFAULTS_BY_SIZE
from orpo_cli.recipe.explanations import read_explanation
from orpo_cli.recipe.load import load_recipe
from orpo_cli.recipe.source.recipe_files import RecipeFile

ROOT = Path(__file__).parents[3]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
RECIPE = RecipeFile("page.yaml", ROOT, "{model: {model_name_or_path: a/b}, dataset: {train: {path: pairs.jsonl}}}")
PAGE_NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Anchors that GitHub generates for the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def commands():
    return typer.main.get_command(build_app()).commands


def test_generated_pages_are_up_to_date():
    done = subprocess.run(
        [sys.executable, "-m", "tools.generate_docs", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_page_that_is_out_of_date_is_named_and_rewritten(tmp_path):
    import shutil

    for folder in ("docs", "tools", "recipes"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    page = tmp_path / "docs" / "reference" / "recipe.md"
    page.write_text(page.read_text(encoding="utf-8").replace("lora_alpha", "lora_beta"), encoding="utf-8")
    script = [sys.executable, "-m", "tools.generate_docs"]
    done = subprocess.run([*script, "--check"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "recipe.md is out of date" in done.stderr
    subprocess.run(script, cwd=tmp_path, check=True, capture_output=True)
    assert page.read_text(encoding="utf-8") == (ROOT / "docs" / "reference" / "recipe.md").read_text(encoding="utf-8")


def test_the_reference_shows_numbers_unquoted_and_no_in_quotes():
    reference = (ROOT / "docs" / "reference" / "recipe.md").read_text(encoding="utf-8")
    assert "| `lora_dropout` | number · ≥ 0 · < 1 | `0.0` |" in reference
    reference = (ROOT / "docs" / "reference" / "training-arguments.md").read_text(encoding="utf-8")
    assert '| `eval_strategy` | `"no"`, `steps` or `epoch` | `"no"` * |' in reference


@pytest.mark.parametrize("name", PAGE_NAMES)
def test_links_resolve(name):
    page = ROOT / name
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{name}: {link}"
        assert not anchor or anchor in anchors(target), f"{name}: {link}"


def orpo_commands(page: Path) -> list[tuple[str, list[str]]]:
    """Each call of orpo in the shell blocks of a page, and after a $ in its console blocks: the line and the arguments."""
    console = re.sub(r"^(?!\$ ).*$", "", "".join(blocks(page, "console")), flags=re.MULTILINE)
    text = "".join(block for language in ("sh", "bash") for block in blocks(page, language)) + console
    calls = []
    for line in text.replace("\\\n", " ").splitlines():
        try:
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;><()")
            lexer.whitespace_split = True
            words = list(lexer)
        except ValueError:  # a text of several lines
            continue
        while "orpo" in words:
            words = words[words.index("orpo") + 1 :]
            end = next((index for index, word in enumerate(words) if set(word) <= set("|&;><()")), len(words))
            calls += [(line, words[:end])] if "$@" not in words[:end] else []  # the lines of a script
    return calls


@pytest.mark.parametrize("name", PAGE_NAMES)
def test_commands_on_pages_are_accepted_with_their_arguments(name, commands):
    for line, arguments in orpo_commands(ROOT / name):
        check_command(arguments, commands, f"{name}: {line}")


def check_command(arguments, commands, location):
    """Parse a call as the command line does, without running it: options, their values, and required arguments."""
    if arguments[0] in ("--help", "--version", "--install-completion", "--show-completion"):
        return
    name, *rest = arguments
    assert name in commands, location
    context = commands[name].make_context(name, [*rest])
    for override in context.params.get("overrides") or ():
        try:
            load_recipe(RECIPE, [override])
        except OrpoError as error:
            pytest.fail(f"{location}: {error}")


def test_the_quickstart_target_uses_options_that_exist(commands):
    listing = subprocess.run(["make", "-n", "quickstart"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = re.findall(r"/orpo (.*)$", listing, re.MULTILINE)
    assert lines == ["quickstart"]
    for line in lines:
        check_command(shlex.split(line), commands, line)


def test_the_reference_lists_exactly_the_existing_commands():
    page = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## `?orpo ([a-z-]+)", page, re.MULTILINE)) == {name.replace("_", "-") for name in COMMANDS}


@pytest.mark.parametrize("name", ["docs/troubleshooting/index.md", "docs/how-to/ci.md"])
def test_exit_code_tables_match_the_error_classes(name):
    from orpo_cli import errors

    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.OrpoError)]
    table = re.findall(r"^\| (\d+) \|", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    assert {int(code) for code in table} == {0, *(kind.exit_code for kind in kinds)}


def test_recipes_on_pages_are_valid(tmp_path):
    complete = []
    for page in PAGES:
        if page.parent.name == "troubleshooting":
            continue  # invalid and corrected recipes, tested in tests/unit/recipe/test_problem_pages.py
        for block in blocks(page, "yaml"):
            values = yaml.safe_load(block)
            complete += [page.name] if {"model", "dataset"} <= values.keys() else []
            values["model"] = {"model_name_or_path": "some/model", **values.get("model", {})}
            values["dataset"] = {"train": {"path": "pairs.jsonl"}, **values.get("dataset", {})}
            recipe = tmp_path / "recipe.yaml"
            recipe.write_text(json.dumps(values))
            load_recipe(str(recipe))
    assert "README.md" in complete


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_files_and_directories_named_on_developer_pages_exist(name):
    """Each inline code that looks like a path: from the root or from the package, or the name of one of its files."""
    text = re.sub(r"^```.*?^```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    paths = [
        path
        for path in re.findall(r"`([\w./-]+)`", text)
        if re.fullmatch(r"[a-z0-9_./-]+(/|\.py|\.ya?ml|\.toml)", path)
    ]
    generated = {"adapter/", "model/", "merged/", "dist/"}
    missing = [
        path
        for path in paths
        if path not in generated
        and not any((folder / path).exists() for folder in (ROOT, ROOT / "orpo_cli"))
        and ("/" in path or not list((ROOT / "orpo_cli").rglob(path)))
    ]
    assert len(paths) > 10
    assert missing == []


def test_the_table_of_defaults_matches_the_plan():
    page = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?:up to ([\d.]+)B|larger) \| (\S+) \| (\S+) \| (\S+) \|$", page, re.MULTILINE)
    written = [(float(size or "inf"), float(full), float(lora), float(beta)) for size, full, lora, beta in rows]
    assert written == [
        (row.max_billions, row.full_learning_rate, row.lora_learning_rate, row.beta) for row in DEFAULTS_BY_SIZE
    ]


def test_the_explanations_have_the_defaults_of_every_size():
    """With the method of the example: 2e-4 is wrong for all weights of a 7B model, and usual for LoRA."""
    rate, beta = read_explanation("unusual-learning-rate"), read_explanation("unusual-beta")
    rows = re.findall(r"^\| (?:up to ([\d.]+)B|more) \| (\S+) \| (\S+) \|$", rate.remedy, re.MULTILINE)
    assert [(float(size or "inf"), float(lora), float(full)) for size, lora, full in rows] == [
        (row.max_billions, row.lora_learning_rate, row.full_learning_rate) for row in DEFAULTS_BY_SIZE
    ]
    small, middle, large, larger = DEFAULTS_BY_SIZE
    sizes = f"{small.beta} up to {small.max_billions}B parameters, {middle.beta} up to {middle.max_billions}B, {large.beta} up to"
    assert f"{sizes} {large.max_billions}B, and {larger.beta} above" in beta.remedy.replace("\n", " ")
    seven = next(row for row in DEFAULTS_BY_SIZE if row.max_billions >= 7)
    assert f"lora section: {seven.lora_learning_rate:.1e}".replace("e-0", "e-") in str(rate.repaired)
