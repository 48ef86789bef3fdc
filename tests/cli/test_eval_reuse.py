"""`orpo eval` uses scores of the base again that an earlier evaluation computed, and only where nothing that decides them changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import CommandResult
from safetensors.torch import load_file, save_file
from support.tiny_eval_run import make_eval_run

import orpo_cli
from orpo_cli.rundir import RunDir
from orpo_cli.training import packed_scoring

PACKED: dict[str, Any] = {"engine": {"fast_path": "on", "max_tokens_per_microbatch": 256}}
OrpoHere = Callable[..., CommandResult]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORPO_SCORE_CACHE", "1")
    monkeypatch.setenv("ORPO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "scores"


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of the forward passes of packed rows."""
    found: list[int] = []
    forward = packed_scoring.forward_packed

    def count(model: Any, head: Any, transform: Any, batch: Any) -> Any:
        found.append(batch.num_tokens)
        return forward(model, head, transform, batch)

    monkeypatch.setattr(packed_scoring, "forward_packed", count)
    return found


def packed_run(folder: Path) -> RunDir:
    return make_eval_run(folder, **PACKED)


def evaluate(orpo_here: OrpoHere, run: RunDir, *options: object) -> tuple[dict[str, Any], str]:
    done = orpo_here("eval", run.root, "--json", *map(str, options))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_python_scores_the_base_again_on_request(tmp_path: Path, cache: Path) -> None:
    run = packed_run(tmp_path)
    assert orpo_cli.evaluate(run.root)["reused"] == {}
    assert orpo_cli.evaluate(run.root)["reused"].keys() == {"base"}
    assert orpo_cli.evaluate(run.root, recompute=True)["reused"] == {}


def test_a_second_evaluation_computes_only_the_tuned_model_and_says_so(
    tmp_path: Path, orpo_here: OrpoHere, cache: Path, passes: list[int]
) -> None:
    run = packed_run(tmp_path)
    first, _ = evaluate(orpo_here, run)
    assert first["reused"] == {}
    computed = len(passes)
    passes.clear()
    second, shown = evaluate(orpo_here, run)
    assert len(passes) == computed // 2
    assert {**second, "seconds": 0, "reused": {}} == {**first, "seconds": 0}
    assert second["reused"]["base"]["by"] == f"orpo eval {run.root}"
    assert f"base: scores of {second['reused']['base']['computed']}, computed by orpo eval" in shown
    assert json.loads(run.evaluation.read_text())["reused"] == second["reused"]
    passes.clear()
    third, shown = evaluate(orpo_here, run, "--recompute")
    assert (len(passes), third["reused"]) == (computed, {})
    assert "base: scores of" not in shown


def test_another_run_of_the_same_base_uses_them_too(tmp_path: Path, orpo_here: OrpoHere, cache: Path) -> None:
    run = packed_run(tmp_path)
    first, _ = evaluate(orpo_here, run)
    run.root.rename(tmp_path / "earlier")
    second, _ = evaluate(orpo_here, packed_run(tmp_path))
    assert second["models"]["base"] == first["models"]["base"]
    assert second["reused"]["base"]["by"] == f"orpo eval {run.root}"


def change_a_weight(run: RunDir) -> None:
    path = run.root.parent / "base" / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] += 1e-3
    save_file(weights, path, {"format": "pt"})


def change_the_configuration(run: RunDir) -> None:
    path = run.root.parent / "base" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rms_norm_eps": 1e-4}))


def change_a_pair(run: RunDir) -> None:
    path = run.root.parent / "heldout.jsonl"
    path.write_text(path.read_text().replace("It depends on 52", "It hangs on 52"))


def damage_the_cache(run: RunDir) -> None:
    (path,) = (run.root.parent / "cache" / "scores").iterdir()
    document = json.loads(path.read_text())
    document["value"] = document["value"].replace('"chosen": [-', '"chosen": [-1')
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    "change",
    [change_a_weight, change_the_configuration, change_a_pair, damage_the_cache],
    ids=lambda each: each.__name__,
)
def test_a_change_computes_anew(
    tmp_path: Path, orpo_here: OrpoHere, cache: Path, change: Callable[[RunDir], None]
) -> None:
    run = packed_run(tmp_path)
    first, _ = evaluate(orpo_here, run)
    change(run)
    second, _ = evaluate(orpo_here, run)
    assert second["reused"] == {}
    is_damaged = change is damage_the_cache
    assert (second["models"]["base"] == first["models"]["base"]) == is_damaged
    third, _ = evaluate(orpo_here, run)
    assert list(third["reused"]) == ["base"]
    assert third["models"] == second["models"]


@pytest.mark.parametrize("option", [("--max-samples", 3), ("--batch-size", 2)], ids=lambda option: str(option[0]))
def test_other_pairs_and_another_order_of_sums_compute_anew(
    tmp_path: Path, orpo_here: OrpoHere, cache: Path, option: tuple[str, int]
) -> None:
    run = packed_run(tmp_path)
    evaluate(orpo_here, run)
    found, _ = evaluate(orpo_here, run, *option)
    assert found["reused"] == {}
    assert len(list(cache.iterdir())) == 2


def test_a_cache_that_cannot_be_written_changes_nothing(tmp_path: Path, orpo_here: OrpoHere, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    found, _ = evaluate(orpo_here, packed_run(tmp_path))
    assert found["reused"] == {}


@pytest.mark.parametrize("full", [False, True], ids=["padded", "all weights trained"])
def test_scores_of_other_runs_are_kept_as_well(tmp_path: Path, orpo_here: OrpoHere, cache: Path, full: bool) -> None:
    run = make_eval_run(tmp_path, full=full, **(PACKED if full else {}))
    first, _ = evaluate(orpo_here, run)
    second, _ = evaluate(orpo_here, run)
    assert list(second["reused"]) == ["base"]
    assert second["models"] == first["models"]
