"""Packaging: what a wheel, a container and a release consist of, as far as that can be checked without building them."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
REPOSITORY = "https://github.com/orpo-cli/orpo-cli"
INSTRUCTION = re.compile(r"^(ARG|FROM|ENV|RUN|COPY|WORKDIR|ENTRYPOINT|CMD) (.*)$")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def dockerfile() -> list[tuple[str, str]]:
    """Instructions of the Dockerfile, with continued lines joined."""
    lines = [line for line in read("Dockerfile").splitlines() if line and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    found = [INSTRUCTION.match(line) for line in joined]
    assert all(found), joined
    return [(each[1], each[2]) for each in found if each]


def test_urls_and_readme_of_the_metadata_lead_to_the_repository() -> None:
    settings = tomllib.loads(read("pyproject.toml"))
    urls = settings["project"]["urls"]
    assert {"Homepage", "Documentation", "Repository", "Issues", "Changelog"} <= urls.keys()
    for url in urls.values():
        path = url.removeprefix(f"{REPOSITORY}/blob/main/")
        assert path == url or (ROOT / path).is_file(), url
    readme = settings["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    assert readme["fragments"] == [{"path": "README.md"}]


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_a_package_index_gets_a_readme_without_relative_links(name: str) -> None:
    readme = tomllib.loads(read("pyproject.toml"))["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    text = read(name)
    for each in readme["substitutions"]:
        text = re.sub(each["pattern"], each["replacement"], text)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links
    assert all(link.startswith(("https://", "#")) for link in links), links
    assert "https://raw.githubusercontent.com/orpo-cli/orpo-cli/main/docs/images/" in text


def test_the_container_copies_what_exists_and_ignores_nothing_that_it_copies() -> None:
    allowed = {line[1:] for line in read(".dockerignore").splitlines() if line.startswith("!")}
    sources = [name for kind, rest in dockerfile() if kind == "COPY" for name in rest.split()[:-1]]
    assert sources
    for name in sources:
        assert (ROOT / name).exists(), name
        assert name in allowed, name


def test_the_commands_of_the_container_are_valid_shell_and_end_in_orpo() -> None:
    instructions = dockerfile()
    assert instructions[0] == ("ARG", "BASE=debian:trixie-slim")
    assert instructions[1] == ("FROM", "${BASE}")
    assert "nvidia/cuda:" in read("Dockerfile")
    for kind, rest in instructions:
        if kind == "RUN":
            subprocess.run(["sh", "-n", "-c", rest], check=True)
    assert instructions[-2] == ("ENTRYPOINT", '["orpo"]')
    extras = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
    assert dict(rest.split("=", 1) for kind, rest in instructions if kind == "ARG")["EXTRAS"] in extras


@pytest.mark.slow
def test_the_commands_of_the_container_install_a_working_orpo(tmp_path: Path) -> None:
    """Every RUN after that of the system packages, in folders of this machine. It installs torch, and needs a package registry."""
    variables = {"EXTRAS": "quickstart", "PATH": "/usr/bin:/bin"}
    for kind, rest in dockerfile():
        rest = rest.replace("/opt/", f"{tmp_path}/")
        if kind == "COPY":
            *names, target = rest.split()
            Path(target).mkdir(parents=True, exist_ok=True)
            for name in names:  # a directory is copied by its contents, as docker does
                source = f"{ROOT / name}/." if (ROOT / name).is_dir() else str(ROOT / name)
                subprocess.run(["cp", "-r", source, target], check=True)
        elif kind == "RUN" and "apt-get" not in rest:
            subprocess.run(["sh", "-e", "-c", rest], check=True, env=variables, cwd=tmp_path)
    orpo = tmp_path / "orpo" / "bin" / "orpo"
    done = subprocess.run([orpo, "quickstart", "--help"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "qwen3-0.6b" in done.stdout
    # What messages and pages say to install: pip reads the extras of the installed orpo-cli, which is on no index.
    pip = [orpo.with_name("python"), "-m", "pip", "install", "--dry-run", "orpo-cli[llama-cpp]"]
    done = subprocess.run(pip, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Would install xllamacpp" in done.stdout


def test_what_the_container_keeps_is_in_the_mounted_folder() -> None:
    """``docker run --rm`` deletes the rest; a user of ``--user`` without an entry in the container's passwd has the home ``/``."""
    variables = dict(word.split("=", 1) for kind, rest in dockerfile() if kind == "ENV" for word in shlex.split(rest))
    folder = next(rest for kind, rest in dockerfile() if kind == "WORKDIR")
    assert variables["HOME"] == folder
    assert not {"HF_HOME", "XDG_CACHE_HOME", "ORPO_CACHE"} & variables.keys()
    assert f'-v "$PWD:{folder}"' in read("Dockerfile")


def test_the_development_container_installs_what_the_makefile_does() -> None:
    settings = json.loads(read(".devcontainer/devcontainer.json"))
    assert settings["postCreateCommand"] == "make install"
    minor = settings["image"].rpartition(":3.")[2]
    assert f"Programming Language :: Python :: 3.{minor}" in read("pyproject.toml")


def test_the_release_checks_the_version_and_tries_the_wheel_on_every_python() -> None:
    workflow = yaml.safe_load(read(".github/workflows/release.yml"))
    jobs = workflow["jobs"]
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads the key `on` as true
    assert jobs["install"]["strategy"] == yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]["test"]["strategy"]
    assert jobs["publish"]["needs"] == "install"
    assert jobs["install"]["needs"] == "build"
    scripts = {step["name"]: step["run"] for job in jobs.values() for step in job["steps"] if "run" in step}
    for script in scripts.values():
        subprocess.run(["bash", "-n", "-c", script], check=True)
    check = scripts["Check that the tag is the version of the package and has an entry in the changelog"]
    version = re.search(r'^__version__ = "(.*)"$', read("orpo_cli/__init__.py"), re.MULTILINE)
    assert version
    for tag, code in ((f"v{version[1]}", 0), ("v0.0.0", 1)):
        variables = {"GITHUB_REF_NAME": tag, "PATH": "/usr/bin:/bin"}
        done = subprocess.run(["bash", "-e", "-c", check], cwd=ROOT, env=variables, capture_output=True, check=False)
        assert done.returncode == code, done.stderr


def test_the_example_of_the_release_uses_commands_that_exist() -> None:
    from orpo_cli.cli.commands import COMMANDS

    jobs = yaml.safe_load(read(".github/workflows/release.yml"))["jobs"]
    script = next(
        step["run"] for step in jobs["install"]["steps"] if step.get("name") == "Run the example of the README"
    )
    called = [shlex.split(line)[1] for line in script.splitlines()]
    assert called[0] == "--version"
    assert {name.replace("-", "_") for name in called[1:]} <= set(COMMANDS)
