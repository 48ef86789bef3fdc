"""Real training runs of tiny models through the command line."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from support.metric_lines import metric_lines
from support.tiny import write_pairs, write_recipe
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

METRICS = {
    "step", "loss", "grad_norm", "learning_rate", "nll_loss", "log_odds_ratio", "log_odds_chosen", "rewards/accuracies",
    "rewards/margins", "rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected", "tokens_per_second",
    "memory_gb",
}  # fmt: skip


def lines(run: Path) -> list[dict[str, Any]]:
    return metric_lines(run)


def test_the_result_is_on_the_disk_before_it_appears(
    tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power failure after the end of a training must not leave empty files."""
    fsync, synced = os.fsync, set()

    def recorded(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.parent.name.startswith((".adapter.partial-", ".model.partial-")):
            synced.add(path.name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    for kind, lora in (("adapter", True), ("model", False)):
        (tmp_path / kind).mkdir()
        done = orpo_here("train", write_recipe(tmp_path / kind, steps=1, lora=lora, estimated=False))
        assert done.returncode == 0, done.stderr
        files = {path.name for path in (tmp_path / kind / "run" / kind).iterdir()}
        assert files <= synced
        synced.clear()


def test_a_lora_run_leaves_a_whole_run_directory(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    recipe = write_recipe(
        tmp_path, training={"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    )
    done = orpo_here("train", recipe, "--set", "training.max_steps=4")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    assert done.stdout.strip() == str(run / "adapter")
    assert "step 4/4" in done.stderr
    assert "24" in done.stderr  # pairs read

    steps = [line for line in lines(run) if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert all(set(line) >= METRICS for line in steps)
    assert all(
        math.isfinite(value) for line in lines(run) for name, value in line.items() if name not in ("kind", "time")
    )
    assert [line["step"] for line in lines(run) if "eval_loss" in line] == [0, 2, 4]

    state = json.loads((run / "run.json").read_text())
    assert (state["status"], state["steps"]) == ("finished", 4)
    assert state["versions"]["trl"] == "1.16.0"
    assert state["dataset"] == json.loads((run / "data_report.json").read_text())
    assert (run / "recipe.original.yaml").read_text().startswith("# --set training.max_steps=4\n")
    assert "  max_steps: 4 # --set\n" in (run / "recipe.yaml").read_text()
    assert (run / "checkpoints" / "checkpoint-4").is_dir()
    assert "base_model" in (run / "README.md").read_text() or (run / "README.md").read_text().startswith("---")

    base = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tuned = PeftModel.from_pretrained(base, run / "adapter").eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "adapter")
    assert tokenizer.chat_template
    ends = GenerationConfig.from_pretrained(run / "adapter").eos_token_id
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in (ends if isinstance(ends, list) else [ends])
    inputs = tokenizer("What is 2 plus 2?", return_tensors="pt")
    with torch.no_grad():
        logits = tuned(**inputs).logits
        with tuned.disable_adapter():
            assert (tuned(**inputs).logits - logits).abs().max() > 1e-3


def test_a_full_run_saves_the_model(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    done = orpo_here("train", write_recipe(tmp_path, lora=False), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["status"] == "finished"
    assert document["result"] == str(tmp_path / "run" / "model")
    assert document["final_metrics"]["step"] == 3
    before, after = (load_file(tmp_path / part / "model.safetensors") for part in ("model", "run/model"))
    assert any((before[name] - after[name]).abs().max() > 1e-4 for name in before)


@pytest.mark.parametrize("lora", [True, False])
def test_a_run_of_one_step_trains_without_a_warm_up(tmp_path: Path, orpo_here: Callable[..., Any], lora: bool) -> None:
    recipe = write_recipe(tmp_path, steps=1, lora=lora, training={"warmup_steps": 0.1, "eval_on_start": False})
    done = orpo_here("train", recipe)
    assert done.returncode == 0, done.stderr
    assert "training.warmup_steps = 0: the run has one step" in done.stderr
    (step,) = [line for line in lines(tmp_path / "run") if "loss" in line]
    assert step["learning_rate"] == 1e-3


def test_a_run_is_never_overwritten_and_says_how_to_go_on(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    recipe = write_recipe(tmp_path, steps=1)
    assert orpo_here("train", recipe, "--quiet").returncode == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    again = orpo_here("train", recipe)
    assert again.returncode == 2
    for word in ("already has a run", "output_dir", "rm -r", "more epochs or steps, and --resume auto"):
        assert word in again.stderr
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    finished = orpo_here("train", recipe, "--resume", "auto", "--json")
    assert finished.returncode == 0
    assert json.loads(finished.stdout)["status"] == "finished"


@pytest.mark.parametrize("options", [("--dry-run",), ("--smoke",)])
def test_smoke_and_dry_runs_are_refused_in_several_processes(
    tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    refused = orpo_here("train", tmp_path / "absent.yaml", *options)
    assert refused.returncode == 2
    assert "--smoke and --dry-run run in one process, and WORLD_SIZE is 2." in refused.stderr


def test_quiet_and_a_pipe_print_only_the_result(tmp_path: Path, orpo: Callable[..., Any]) -> None:
    done = orpo("train", write_recipe(tmp_path, steps=1), "--quiet")
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "run" / "adapter"))
    assert done.stderr == ""


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_pairs(
    tmp_path: Path, orpo_here: Callable[..., Any]
) -> None:
    training = {"learning_rate": 1e30, "save_strategy": "steps", "save_steps": 1, "max_grad_norm": 0.0}
    failed = orpo_here("train", write_recipe(tmp_path, steps=8, lora=False, training=training))
    assert failed.returncode == 5
    assert "Traceback" not in failed.stderr
    assert "step " in failed.stderr
    assert "train.jsonl:" in failed.stderr
    run = tmp_path / "run"
    state = json.loads((run / "run.json").read_text())
    assert state["status"] == "failed"
    assert not (run / "model").exists()
    assert all(math.isfinite(line["loss"]) for line in lines(run) if "loss" in line)
    assert (run / "checkpoints" / "checkpoint-1" / "trainer_state.json").is_file()


@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
def test_an_evaluation_changes_nothing_in_quantized_training(
    tmp_path: Path, orpo_here: Callable[..., Any], bits: str
) -> None:
    """On CPUs with AVX512-BF16 bitsandbytes repacks 4-bit weights at the first forward in eval mode; gradients went wrong."""
    recipe = write_recipe(tmp_path, steps=4, quantization={bits: True})
    runs = []
    for name, strategy in (("with", "steps"), ("without", "no")):
        overrides = [f"output_dir={tmp_path / name}", f"training.eval_strategy={strategy}", "training.eval_steps=2"]
        done = orpo_here("train", recipe, *(part for override in overrides for part in ("--set", override)))
        assert done.returncode == 0, done.stderr
        runs.append([line for line in lines(tmp_path / name) if "loss" in line])
    for evaluated, plain in zip(*runs, strict=True):
        assert evaluated["grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-5)
        assert evaluated["loss"] == pytest.approx(plain["loss"], rel=1e-5)


def test_ctrl_c_saves_a_checkpoint_and_the_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, orpo_here: Callable[..., Any]
) -> None:
    recipe = write_recipe(tmp_path, steps=40)
    uninterrupted = orpo_here("train", recipe, "--quiet", "--set", f"output_dir={tmp_path / 'uninterrupted'}")
    assert uninterrupted.returncode == 0, uninterrupted.stderr

    command = [sys.executable, "-m", "orpo_cli", "train", str(recipe)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):  # the first one says that the attempt begins
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "--resume auto" in stderr
    assert "Traceback" not in stderr
    state = json.loads((tmp_path / "run" / "run.json").read_text())
    assert state["status"] == "interrupted"
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert 2 <= int(checkpoint.name.rpartition("-")[2]) < 40

    refused = orpo_here("train", recipe, "--resume", "auto", "--set", "training.beta=0.9")
    assert refused.returncode == 2
    assert "training.beta" in refused.stderr

    resumed = orpo_here("train", recipe, "--resume", "auto")
    assert resumed.returncode == 0, resumed.stderr
    assert [line["step"] for line in lines(tmp_path / "run")] == list(range(1, 41))
    one, other = (
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("uninterrupted", "run")
    )
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


def test_a_missing_data_file_is_named_before_the_plan_and_no_run_is_made(
    tmp_path: Path, orpo_here: Callable[..., Any]
) -> None:
    recipe = write_recipe(tmp_path, steps=1)
    done = orpo_here("train", recipe, "--set", "dataset.train.path=nowhere/pears.jsonl")
    assert done.returncode != 0
    assert "nowhere/pears.jsonl" in done.stderr
    assert "plan.json" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_data_without_a_usable_pair_leaves_nothing_behind(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    recipe = write_recipe(tmp_path)
    same = [{"role": "assistant", "content": "same"}]
    row = {"prompt": [{"role": "user", "content": "q"}], "chosen": same, "rejected": same}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    failed = orpo_here("train", recipe)
    assert failed.returncode == 4
    assert "identical" in failed.stderr
    assert not (tmp_path / "run").exists()


def test_bad_pairs_are_dropped_counted_and_shown(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    recipe = write_recipe(tmp_path, steps=1)
    path = write_pairs(tmp_path / "train.jsonl", 6)
    bad = {"prompt": [{"role": "user", "content": "q"}], "rejected": [{"role": "assistant", "content": "x"}]}
    empty = {**bad, "chosen": [{"role": "assistant", "content": " "}]}
    same = {**bad, "chosen": bad["rejected"]}
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in (empty, same))
    done = orpo_here("train", recipe)
    assert done.returncode == 0, done.stderr
    for word in ("empty_chosen", "identical"):
        assert word in done.stderr
    report = json.loads((tmp_path / "run" / "data_report.json").read_text())
    assert "empty_chosen" in json.dumps(report)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 400 kB; needs the right to mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_named_and_the_last_whole_checkpoint_kept(
    tmp_path: Path, small_disk: Path, orpo: Callable[..., Any]
) -> None:
    recipe = write_recipe(tmp_path, steps=8, training={"save_strategy": "steps", "save_steps": 1})
    failed = orpo("train", recipe, "--set", f"output_dir={small_disk / 'run'}")
    assert failed.returncode == 3, failed.stderr
    assert "is full" in failed.stderr
    assert "Traceback" not in failed.stderr
    checkpoints = list((small_disk / "run" / "checkpoints").iterdir())
    assert checkpoints
    assert all((checkpoint / "trainer_state.json").is_file() for checkpoint in checkpoints)
    assert json.loads((small_disk / "run" / "run.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("override", "code", "words"),
    [
        ("model.model_name_or_path=./missing", 2, "does not exist"),
        ("model.model_name_or_path=nobody/nothing", 6, "could not be reached"),
        ("dataset.train.path=./missing.jsonl", 4, "missing.jsonl"),
        ("model.chat_template=nonsense", 2, "built-in"),
        ("model.model_name_or_path=package://no_such_package/x.gguf", 3, "not installed"),
        ("training.report_to=[comet_ml]", 3, "pip install"),
        ("output_dir=/proc/nothing", 3, "cannot make"),
        ("lora.target_modules=[nonsense]", 2, "nonsense"),
        ("training.lr_scheduler_kwargs={nonsense: 1}", 2, "nonsense"),
    ],
)
def test_bad_input_ends_with_its_exit_code_and_no_traceback(
    tmp_path: Path, orpo_here: Callable[..., Any], override: str, code: int, words: str
) -> None:
    failed = orpo_here("train", write_recipe(tmp_path), "--set", override)
    assert failed.returncode == code, failed.stderr
    assert words in failed.stderr
    assert "Traceback" not in failed.stderr
    assert failed.stdout == ""
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_without_a_chat_template_is_named_with_the_remedy(
    tmp_path: Path, orpo_here: Callable[..., Any]
) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "model" / "chat_template.jinja").unlink()
    failed = orpo_here("train", recipe)
    assert failed.returncode == 2
    assert "model.chat_template" in failed.stderr
    done = orpo_here("train", recipe, "--set", "model.chat_template=chatml")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("steps", [-1, 2], ids=["epochs", "max_steps"])
def test_pairs_that_do_not_fill_a_batch_are_refused_where_it_is_dropped(
    tmp_path: Path, orpo_here: Callable[..., Any], steps: int
) -> None:
    recipe = write_recipe(tmp_path, steps=steps, estimated=False, training={"dataloader_drop_last": True})
    write_pairs(tmp_path / "train.jsonl", 3)
    refused = orpo_here("train", recipe)
    assert refused.returncode == 4, refused.stderr
    assert "its 3 pairs do not fill a batch" in refused.stderr
    assert not (tmp_path / "run").exists()
