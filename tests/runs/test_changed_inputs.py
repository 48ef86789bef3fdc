"""Resume with other inputs: data, tokenizer, chat template or base weights that changed are refused, or accepted explicitly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.killed_run import kill_in_step
from support.tiny import write_recipe

from orpo_cli.rundir import RunDir

RESUME = ("--resume", "auto")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a recipe, its data and its model, with a run that was killed in step 3 of 4, after a checkpoint."""
    folder = tmp_path_factory.mktemp("inputs")
    kill_in_step(
        3, write_recipe(folder, estimated=False, steps=4, training={"save_strategy": "steps", "save_steps": 2})
    )
    return folder


@pytest.fixture
def inputs(killed: Path, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """The folder of the inputs, restored afterwards, and a copy of the run."""
    names = ("train.jsonl", "heldout.jsonl", "model")
    for name in names:
        copy = shutil.copytree if (killed / name).is_dir() else shutil.copy2
        copy(killed / name, tmp_path / name)  # type: ignore[operator]
    shutil.copytree(killed / "run", tmp_path / "run")
    yield killed, tmp_path / "run"
    shutil.rmtree(killed / "model")
    for name in names:
        (tmp_path / name).rename(killed / name)


def contents(run: Path) -> dict[str, bytes]:
    """All files of a run, except its lock and the logs of its attempts."""
    files = {path.relative_to(run).as_posix(): path for path in run.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith((".", "logs/"))}


def edit_row(folder: Path) -> None:
    lines = (folder / "train.jsonl").read_text().splitlines(keepends=True)
    lines[9] = lines[9].replace("It depends", "It rests")
    (folder / "train.jsonl").write_text("".join(lines))


def swap_rows(folder: Path) -> None:
    lines = (folder / "train.jsonl").read_text().splitlines(keepends=True)
    lines[4], lines[7] = lines[7], lines[4]
    (folder / "train.jsonl").write_text("".join(lines))


def append_row(folder: Path) -> None:
    text = (folder / "train.jsonl").read_text()
    (folder / "train.jsonl").write_text(text + text.splitlines()[0].replace("What is 0", "What is 77") + "\n")


def remove_row(folder: Path) -> None:
    (folder / "train.jsonl").write_text("".join((folder / "train.jsonl").read_text().splitlines(keepends=True)[:-1]))


def edit_eval_row(folder: Path) -> None:
    text = (folder / "heldout.jsonl").read_text()
    (folder / "heldout.jsonl").write_text(text.replace("It depends on 100", "It rests on 100"))


def drop_a_merge(folder: Path) -> None:
    path = folder / "model" / "tokenizer.json"
    document = json.loads(path.read_text())
    document["model"]["merges"].pop(3)
    path.write_text(json.dumps(document))


def unmark_an_added_token(folder: Path) -> None:
    path = folder / "model" / "tokenizer.json"
    document = json.loads(path.read_text())
    document["added_tokens"][0]["rstrip"] = True
    path.write_text(json.dumps(document))


def edit_template(folder: Path) -> None:
    path = folder / "model" / "chat_template.jinja"
    path.write_text(path.read_text().replace("<|im_end|>\n", "<|im_end|>"))


def flip_a_weight(folder: Path) -> None:
    path = folder / "model" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


CHANGES = [
    (edit_row, "data", ["24 → 24 train pairs", "pair 10", "train.jsonl:10"]),
    (swap_rows, "data", ["24 → 24 train pairs", "pair 5", "train.jsonl:5"]),
    (append_row, "data", ["24 → 25 train pairs", "the first 24 are the same", "train.jsonl:25 is new"]),
    (remove_row, "data", ["24 → 23 train pairs", "the first 23 are the same"]),
    (edit_eval_row, "data", ["8 → 8 eval pairs", "pair 1", "heldout.jsonl:1"]),
    (drop_a_merge, "tokenizer", ["digest"]),
    (unmark_an_added_token, "tokenizer", ["digest"]),
    (edit_template, "chat_template", ["digest"]),
    (flip_a_weight, "weights", ["model.safetensors", "digest"]),
]


@pytest.mark.parametrize("name", ["train", "heldout"])
def test_a_data_file_that_is_gone_is_named_before_the_plan(
    name: str, inputs: tuple[Path, Path], orpo_here: Callable[..., Any]
) -> None:
    folder, run = inputs
    file = folder / f"{name}.jsonl"
    rows, before = file.read_bytes(), contents(run)
    file.unlink()
    part = "train" if name == "train" else "eval"
    changes = [f"output_dir={run}", f"dataset.{part}.path={file}"]
    refused = orpo_here("train", folder / "recipe.yaml", *RESUME, *(x for each in changes for x in ("--set", each)))
    file.write_bytes(rows)
    assert refused.returncode == 4
    assert f"error: {file}: no such file" in refused.stderr
    assert "decided for this model and machine" not in refused.stderr
    assert contents(run) == before


@pytest.mark.parametrize(("change", "kind", "shown"), CHANGES, ids=[change.__name__ for change, *_ in CHANGES])
def test_a_changed_input_is_refused_or_accepted(
    inputs: tuple[Path, Path],
    orpo_here: Callable[..., Any],
    change: Callable[[Path], None],
    kind: str,
    shown: list[str],
) -> None:
    folder, run = inputs
    command = ("train", folder / "recipe.yaml", *RESUME, "--set", f"output_dir={run}", "--set", "training.save_steps=1")
    before = contents(run)
    change(folder)
    refused = orpo_here(*command, "--json")
    assert refused.returncode == 2, refused.stderr
    message = json.loads(refused.stdout)["message"]
    lines = message.splitlines()[1:]
    assert len(lines) == 1
    assert lines[0].startswith(f"  {kind}: ")
    for text in shown:
        assert text in lines[0]
    assert f"--allow-changed {kind}" in json.loads(refused.stdout)["remedy"]
    assert contents(run) == before
    others = [
        part
        for other in ("data", "tokenizer", "chat_template", "weights")
        if other != kind
        for part in ("--allow-changed", other)
    ]
    assert orpo_here(*command, *others).returncode == 2
    assert contents(run) == before
    done = orpo_here(*command, "--allow-changed", kind)
    assert done.returncode == 0, done.stderr
    assert f"accepted: {kind}: " in done.stderr
    record = RunDir(run).read_run()
    assert record["status"] == "finished"
    assert [(each["step"], each["kind"]) for each in record["changed_inputs"]] == [(2, kind)]


def move_project(killed: Path, folder: Path) -> tuple[Path, Path]:
    """Recipe and run of a project that was moved: nothing is left at the paths in its plan."""
    shutil.copytree(killed, folder)
    plan = folder / "run" / "plan.json"
    plan.write_text(plan.read_text().replace(str(killed), "/nonexistent/project"))
    return folder / "recipe.yaml", folder / "run"


def test_a_moved_project_is_resumed(killed: Path, tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    """Data and model are compared by content. A finished run records the new paths, so that its base is found."""
    recipe, run = move_project(killed, tmp_path / "moved")
    command = ("train", recipe, *RESUME, "--set", f"output_dir={run}")
    edit_row(tmp_path / "moved")
    assert "data: 24 → 24 train pairs" in orpo_here(*command).stderr
    shutil.copy2(killed / "train.jsonl", tmp_path / "moved")
    other = orpo_here(*command, "--set", "lora.r=8")
    assert other.returncode == 2
    assert "other settings:\n  lora.r: 4 → 8\n" in other.stderr
    done = orpo_here(*command)
    assert done.returncode == 0, done.stderr
    assert f"model.model_name_or_path: '/nonexistent/project/model' → '{tmp_path}/moved/model'" in done.stderr
    assert (run / "adapter" / "adapter_model.safetensors").is_file()

    recipe, run = move_project(tmp_path / "moved", tmp_path / "again")
    command = ("train", recipe, *RESUME, "--set", f"output_dir={run}")
    flip_a_weight(tmp_path / "again")
    refused = orpo_here(*command)
    assert refused.returncode == 2
    assert "weights: model.safetensors: digest" in refused.stderr
    flip_a_weight(tmp_path / "again")
    recorded = orpo_here(*command)
    assert recorded.returncode == 0, recorded.stderr
    assert f"{run / 'plan.json'} has the new places of the inputs:" in recorded.stderr
    assert RunDir(run).read_plan().model.model_name_or_path == f"{tmp_path}/again/model"
    assert orpo_here("merge", run).returncode == 0


def test_a_path_that_is_written_in_another_way_is_the_same_input(
    killed: Path, tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(killed / "run", tmp_path / "run")
    (tmp_path / "link").symlink_to(killed)
    monkeypatch.chdir(killed.parent)
    paths = {"dataset.train.path": f"{killed.name}/*rain.jsonl", "model.model_name_or_path": f"{tmp_path}/link/model"}
    settings = [part for name, value in paths.items() for part in ("--set", f"{name}={value}")]
    done = orpo_here("train", killed / "recipe.yaml", *RESUME, "--set", f"output_dir={run}", *settings)
    assert done.returncode == 0, done.stderr
