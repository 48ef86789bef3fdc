"""`orpo submit`: the Slurm script and the task files, their quoting, and what is refused. tests/runs/test_slurm.py runs it on a cluster."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

SCHEMAS = Path(__file__).parents[1] / "unit" / "launch" / "schemas"
RECIPE: dict[str, Any] = {
    "model": {"model_name_or_path": "example-org/model"},
    "dataset": {"train": {"path": "example-org/pairs"}},
}
GPUS = {"skypilot": {"resources": {"accelerators": "H100:4"}}, "dstack": {"resources": {"gpu": "H100:4"}}}
POD = {"kubernetes": {"image": "registry.example.com/orpo:1", "volume_claim": "training"}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return tmp_path


def write(folder: Path, launch: dict[str, Any], **changes: Any) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "launch": launch, **changes}))
    return path


@pytest.fixture
def script(folder: Path, orpo_here: Callable[..., Any]) -> Callable[..., str]:
    """The script of a recipe with this launch section, which bash accepts."""

    def dry_run(launch: dict[str, Any], *arguments: str, **changes: Any) -> str:
        done = orpo_here("submit", write(folder, launch, **changes), "--to", "slurm", "--dry-run", *arguments)
        assert done.returncode == 0, done.stderr
        checked = subprocess.run(["bash", "-n"], input=done.stdout, capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")
        return str(done.stdout)

    return dry_run


def options(script: str) -> list[str]:
    """The options of sbatch in a script, without quotes."""
    lines = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]
    return [word for line in lines for word in shlex.split(line)]


def command(script: str) -> list[str]:
    """The words of the training command in a script."""
    found = re.search(r"^srun (?:[^\n]|\n  )*", script, re.MULTILINE)
    assert found
    return shlex.split(found[0].replace("\\\n", " "))


def test_the_script_of_one_node(folder: Path, script: Callable[..., str]) -> None:
    slurm = {"partition": "gpu", "account": "nlp", "time": "12:00:00", "gpus_per_node": "a100:4", "cpus_per_task": 16}
    text = script({"slurm": {**slurm, "extra": ["--exclusive"], "setup": ["module load cuda"]}})
    assert text.startswith("#!/bin/bash\n#SBATCH ")
    assert {
        "--job-name=mine", f"--chdir={folder}", f"--output={folder}/runs/mine/logs/slurm-%j.log", "--open-mode=append",
        "--partition=gpu", "--account=nlp", "--time=12:00:00", "--nodes=1", "--ntasks-per-node=1",
        "--gpus-per-node=a100:4", "--cpus-per-task=16", "--requeue", "--signal=USR1@300", "--exclusive",
    } == set(options(text))  # fmt: skip
    assert "\nmodule load cuda\n" in text
    words = command(text)
    assert words[words.index(sys.executable) :] == [
        sys.executable, "-m", "orpo_cli", "train", str(folder / "mine.yaml"), "--resume", "auto",
    ]  # fmt: skip
    assert 'scontrol requeue "$SLURM_JOB_ID"' in text
    assert "MASTER_ADDR" not in text
    assert not (folder / "runs").exists()


def test_machines_are_tasks_and_processes_are_gpus(script: Callable[..., str]) -> None:
    text = script({"num_machines": 2, "num_processes": 8})
    assert {"--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=4"} <= set(options(text))
    assert "export MASTER_ADDR MASTER_PORT" in text
    assert "launch.num_machines" not in text
    text = script({"slurm": {"ntasks_per_node": 2}, "num_processes": 2})
    assert {"--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=2"} <= set(options(text))
    assert "launch.num_machines=2" in command(text)
    text = script({"num_processes": 2}, training={"use_cpu": True})
    assert "gpus" not in text


def test_a_setup_that_ends_at_errors_does_not_keep_the_job_from_the_queue(
    folder: Path, script: Callable[..., str]
) -> None:
    programs = {"srun": "exit 130", "scontrol": f"echo $* >> {shlex.quote(str(folder / 'requeued'))}"}
    for name, line in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    text = script({"slurm": {"setup": ["set -euo pipefail"]}})
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", "-c", text], env=environment, check=False)
    assert done.returncode == 130
    assert (folder / "requeued").read_text() == "requeue 7\n"


def test_without_requeue_the_job_ends(script: Callable[..., str]) -> None:
    text = script({"slurm": {"requeue": False}})
    assert "--no-requeue" in options(text)
    assert "scontrol" not in text


NAMES = ["a b", "it's", 'a "quoted" one', "100%", "$(touch x)", "`touch x`", "größe", "#1", "a;b", "--x"]


@pytest.mark.parametrize("name", NAMES)
def test_values_are_quoted(folder: Path, script: Callable[..., str], name: str) -> None:
    text = script({}, "--set", f"output_dir={json.dumps('out/' + name)}", "--set", f"name={json.dumps(name)}")
    assert f"--job-name={name}" in options(text)
    assert f"--output={folder}/out/{name}/logs/slurm-%j.log".replace("100%", "100%%") in options(text)
    words = command(text)
    assert words[-6:] == [
        "--set", f"output_dir={json.dumps('out/' + name)}", "--set", f"name={json.dumps(name)}", "--resume", "auto",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("launch", "changes", "message"),
    [
        ({"slurm": {"partition": "gpu\n#SBATCH --exclusive"}}, {}, "launch.slurm.partition"),
        ({"slurm": {"account": "a b"}}, {}, "launch.slurm.account"),
        ({"slurm": {"extra": ["--mem=1G\nrm x"]}}, {}, "launch.slurm.extra"),
        ({"slurm": {"extra": ["echo"]}}, {}, "launch.slurm.extra"),
        ({"slurm": {"setup": ["a\nb"]}}, {}, "launch.slurm.setup"),
        ({"slurm": {"time": "soon"}}, {}, "launch.slurm.time"),
        ({"slurm": {"setup": ["echo 'open"]}}, {}, "not valid in a shell"),
        ({"slurm": {"nodes": 3}, "num_machines": 2}, {}, "launch.num_machines is 2, but launch.slurm has 3 nodes"),
        ({"slurm": {"nodes": 3}, "num_processes": 8}, {}, "which 3 tasks cannot share equally"),
        ({}, {"name": "a\nb"}, "has a control character"),
        ({}, {"output_dir": "a\\b"}, "has a backslash"),
    ],
)
def test_values_that_slurm_cannot_read_are_refused(
    folder: Path, orpo_here: Callable[..., Any], launch: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    done = orpo_here("submit", write(folder, launch, **changes), "--to", "slurm", "--dry-run")
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_without_sbatch_nothing_is_written(
    folder: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(folder))
    done = orpo_here("submit", write(folder, {}), "--to", "slurm", "--json")
    assert done.returncode == 3
    assert "sbatch was not found" in done.stderr
    assert "--dry-run" in done.stderr
    assert json.loads(done.stdout)["status"] == "machine"
    assert not (folder / "runs").exists()


def fake_sbatch(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (folder / "bin").mkdir()
    (folder / "bin" / "sbatch").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")


def test_the_job_id_of_a_federation(
    folder: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_sbatch(folder, monkeypatch, 'echo "$@" > arguments; echo "17;east"')
    recipe = write(folder, {"slurm": {"gpus_per_node": 1}})
    document = json.loads(orpo_here("submit", recipe, "--to", "slurm", "--json").stdout)
    script = folder / "runs" / "mine" / "logs" / "slurm.sbatch"
    assert (document["job_id"], document["path"], document["dry_run"]) == ("17", str(script), False)
    assert document["text"] == script.read_text()
    assert (folder / "arguments").read_text() == f"--parsable {script}\n"
    again = orpo_here("submit", recipe, "--to", "slurm")
    assert (again.returncode, again.stdout) == (0, "17\n")
    assert "warning" not in again.stderr


def test_what_sbatch_refuses_is_shown(
    folder: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_sbatch(folder, monkeypatch, "echo 'sbatch: error: invalid partition' >&2; exit 1")
    done = orpo_here("submit", write(folder, {}), "--to", "slurm")
    assert done.returncode == 3
    assert "sbatch refused the job: sbatch: error: invalid partition" in done.stderr
    assert "requests no GPU" in done.stderr


def test_a_directory_that_is_in_use_is_refused_before_the_job_waits(
    folder: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_sbatch(folder, monkeypatch, "touch submitted")
    (folder / "runs" / "mine").mkdir(parents=True)
    (folder / "runs" / "mine" / "notes.txt").touch()
    done = orpo_here("submit", write(folder, {}), "--to", "slurm")
    assert done.returncode == 2
    assert "is not empty, and is not a run" in done.stderr
    assert not (folder / "submitted").exists()


def test_a_job_cannot_read_standard_input(orpo: Callable[..., Any]) -> None:
    done = orpo("submit", "-", "--to", "slurm", "--dry-run", input=yaml.safe_dump(RECIPE))
    assert done.returncode == 2
    assert "standard input" in done.stderr


def schema(target: str) -> dict[str, Any]:
    return dict(json.loads(next(SCHEMAS.glob(f"{target}-*.json")).read_text()))


@pytest.mark.parametrize("machines", [1, 2])
@pytest.mark.parametrize("target", ["skypilot", "dstack", "kubernetes"])
def test_task_files_fit_the_schema_of_their_tool(
    folder: Path, orpo_here: Callable[..., Any], target: str, machines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_inTheEnvironment1")
    recipe = write(folder, {"num_processes": 4 * machines, "num_machines": machines, **GPUS, **POD})
    done = orpo_here("submit", recipe, "--to", target)
    assert done.returncode == 0, done.stderr
    path = folder / done.stdout.strip().removeprefix("wrote ")
    assert "hf_inTheEnvironment1" not in path.read_text()
    documents = list(yaml.safe_load_all(path.read_text()))
    assert len(documents) == (2 if (target, machines) == ("kubernetes", 2) else 1)
    for document in documents:
        jsonschema.validate(document, schema(target))
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**document, "no_such_key": 1}, schema(target))
    assert ("MASTER_ADDR" in path.read_text()) == (machines > 1)
    assert ("launch.machine_rank" in path.read_text()) == (machines > 1)
    assert "orpo train mine.yaml --resume auto" in path.read_text()
    assert orpo_here("submit", recipe, "--to", target).returncode == 2
    assert orpo_here("submit", recipe, "--to", target, "--force").returncode == 0
    printed = orpo_here("submit", recipe, "--to", target, "--dry-run").stdout
    assert printed == path.read_text()


@pytest.mark.parametrize(
    ("target", "launch", "message"),
    [
        ("skypilot", {"num_processes": 4}, "`A100:4`"),
        ("dstack", {}, "launch.dstack.resources.gpu"),
        ("kubernetes", {"kubernetes": {"volume_claim": "x"}}, "launch.kubernetes.image is missing"),
        ("kubernetes", {"kubernetes": {"image": "x"}}, "launch.kubernetes.volume_claim is missing"),
    ],
)
def test_a_task_without_gpus_image_or_volume_is_refused(
    folder: Path, orpo_here: Callable[..., Any], target: str, launch: dict[str, Any], message: str
) -> None:
    done = orpo_here("submit", write(folder, launch), "--to", target, "--dry-run")
    assert done.returncode == 2
    assert message in done.stderr


def test_a_recipe_outside_the_uploaded_directory_is_refused(
    folder: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write(folder, GPUS)
    (folder / "inner").mkdir()
    monkeypatch.chdir(folder / "inner")
    done = orpo_here("submit", recipe, "--to", "dstack", "--dry-run")
    assert done.returncode == 2
    assert "is not in the current directory" in done.stderr
    relative = orpo_here("submit", "../mine.yaml", "--to", "dstack", "--dry-run")
    assert (relative.returncode, "is not in the current directory" in relative.stderr) == (2, True)


def test_the_printed_command_passes_the_secrets_of_the_task(
    folder: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_inTheEnvironment1")
    done = orpo_here("submit", write(folder, GPUS), "--to", "skypilot", "-o", "a task.yaml")
    assert "sky launch --secret HF_TOKEN 'a task.yaml'" in done.stderr


def test_kubernetes_passes_dollar_signs_on(folder: Path, orpo_here: Callable[..., Any]) -> None:
    """Kubernetes replaces $(NAME), and $$ by $ (expansion.Expand)."""
    recipe = write(folder, {"num_machines": 2, "num_processes": 2, **POD})
    done = orpo_here("submit", recipe, "--to", "kubernetes", "--dry-run", "--set", "tags=['a$$b', '$$(HOME)']")
    assert done.returncode == 0, done.stderr
    job = list(yaml.safe_load_all(done.stdout))[-1]
    (_, _, text) = job["spec"]["template"]["spec"]["containers"][0]["command"]
    expanded = re.sub(r"\$(\$|\(\w+\))", lambda found: "$" if found[1] == "$" else "replaced", text)
    assert "replaced" not in expanded
    assert "a$$b" in expanded
    assert '--set "launch.machine_rank=$JOB_COMPLETION_INDEX"' in expanded


def test_keys_of_the_recipe_replace_those_of_the_task(folder: Path, orpo_here: Callable[..., Any]) -> None:
    sky = {"resources": {"accelerators": "L4:1", "use_spot": True}, "setup": "pip install ./orpo.whl"}
    done = orpo_here("submit", write(folder, {"skypilot": sky}), "--to", "skypilot", "--dry-run")
    task = yaml.safe_load(done.stdout)
    assert (task["resources"], task["setup"]) == (sky["resources"], sky["setup"])


def test_the_cluster_of_a_run_is_not_in_its_plan(folder: Path) -> None:
    """A run can be resumed in a job with other settings."""
    from orpo_cli.recipe.load import load_recipe

    launch = load_recipe(str(write(folder, {"slurm": {"partition": "gpu"}, **GPUS, **POD}))).recipe.launch
    assert not launch.model_dump().keys() & {"slurm", "skypilot", "dstack", "kubernetes"}


def test_a_shipped_recipe_is_named_and_not_uploaded(folder: Path, orpo_here: Callable[..., Any]) -> None:
    gpu = ("--set", "launch.dstack.resources.gpu=1")
    done = orpo_here("submit", "quickstart", "--to", "dstack", "--dry-run", *gpu)
    assert any(line.startswith("orpo train quickstart --set ") for line in yaml.safe_load(done.stdout)["commands"])
