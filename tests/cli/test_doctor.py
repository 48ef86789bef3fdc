"""`orpo doctor`: installed packages, machine and hub access, with the exit code."""

import json
import os
import sys
from importlib import metadata

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
    assert extras - {"dev", "quickstart"} == EXTRAS.keys()  # quickstart is gguf, by another name
