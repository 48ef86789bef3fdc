"""`orpo merge` from its arguments to its output."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.json_lines import write_json_lines
from support.tiny_run import FOUR_BIT, make_base, make_run, saved_logits, unmerged_logits

from orpo_cli.planning.plan import DatasetPlan
from orpo_cli.recipe.schema import Source
from orpo_cli.rundir import RunDir

Orpo = Callable[..., Any]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def run(tmp_path: Path, base: Path) -> RunDir:
    return make_run(tmp_path / "run", base)


@pytest.fixture
def run_merge(orpo_here: Orpo) -> Orpo:
    """`orpo merge` with these arguments."""

    def run(*arguments: object) -> Any:
        done = orpo_here("merge", *map(str, arguments))
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


def test_merge_prints_the_folder_and_a_repeated_one_reports_it_as_done(run, run_merge):
    first = run_merge(run.root)
    assert (first.returncode, first.stdout.strip()) == (0, str(run.merged))
    assert "verified" in first.stderr
    assert (saved_logits(run.merged) - unmerged_logits(run)).abs().max() <= 1e-4
    second = run_merge(run.root)
    assert (second.returncode, second.stdout.strip()) == (0, str(run.merged))
    assert "already merged and verified" in second.stderr


def test_json_is_the_only_output_with_quiet(run, tmp_path, orpo):
    done = orpo("merge", run.root, "-o", tmp_path / "out", "--dtype", "bfloat16", "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["status"], document["verified"], document["dtype"]) == ("merged", True, "bfloat16")
    assert document == document | {"output": str(tmp_path / "out")}
    assert done.stderr == ""


def test_another_merge_in_the_same_folder_exits_2(run, run_merge):
    assert run_merge(run.root).returncode == 0
    done = run_merge(run.root, "--dtype", "float16", "--json")
    assert done.returncode == 2
    assert "--overwrite" in json.loads(done.stdout)["remedy"]


def test_smaller_files_of_an_existing_merge_need_overwrite(run, run_merge):
    assert run_merge(run.root).returncode == 0
    done = run_merge(run.root, "--max-shard-size", "50KB")
    assert (done.returncode, "this merge in files of at most 5GB" in done.stderr) == (2, True)
    both = run_merge(run.root, "--max-shard-size", "50KB", "--dtype", "float16")
    assert (both.returncode, "another merge (dtype float32" in both.stderr) == (2, True)
    assert run_merge(run.root, "--max-shard-size", "50KB", "--overwrite").returncode == 0
    assert len(list(run.merged.glob("*.safetensors"))) > 1
    assert run_merge(run.root, "--max-shard-size", "0.05MB").returncode == 0
    assert run_merge(run.root).returncode == 0  # it is the merge that was asked for, in other files


def test_a_bare_adapter_takes_its_base_from_the_command_line(run, tmp_path, base, run_merge):
    adapter = tmp_path / "alone"
    run.adapter.rename(adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    without = run_merge(adapter, "-o", tmp_path / "out")
    assert without.returncode == 2
    assert "--base" in without.stderr
    done = run_merge(adapter, "-o", tmp_path / "out", "--base", base)
    assert done.returncode == 0, done.stderr
    assert (saved_logits(tmp_path / "out") - saved_logits(base)).abs().max() > 0.1


def test_a_run_without_adapter_exits_2_and_names_its_model(tmp_path, base, run_merge):
    run = make_run(tmp_path / "full", base, full=True)
    done = run_merge(run.root)
    assert done.returncode == 2
    assert str(run.model) in done.stderr


def test_an_output_that_cannot_be_written_exits_3(run, tmp_path, run_merge):
    (tmp_path / "file").write_text("a file")
    done = run_merge(run.root, "-o", tmp_path / "file" / "out")
    assert done.returncode == 3, done.stderr
    assert "-o" in done.stderr


def test_adapters_are_added_by_weight_and_wrong_options_exit_2(run, tmp_path, base, run_merge):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    other = make_run(tmp_path / "other", base, peft={"r": 2, "target_modules": ["q_proj"]})
    done = run_merge(run.root, "--adapter", other.root, "--weight", 0.5, "--weight", 2, "-o", tmp_path / "o", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["verification"] == "logits"
    assert document["max_logit_difference"] <= 1e-4
    record = json.loads((tmp_path / "o" / "merge.json").read_text())
    assert [(each["adapter"], each["weight"]) for each in record["adapters"]] == [("adapter", 0.5), ("adapter", 2.0)]

    few = run_merge(run.root, "--adapter", other.root, "--weight", 0.5, "-o", tmp_path / "p")
    assert (few.returncode, "1 --weight for 2 adapters" in few.stderr) == (2, True)
    nothing_to_choose = run_merge(run.root, "--into", "original", "-o", tmp_path / "p")
    assert (nothing_to_choose.returncode, "not quantized" in nothing_to_choose.stderr) == (2, True)
    bad = run_merge(run.root, "--memory", "much", "-o", tmp_path / "p")
    assert (bad.returncode, "not a size" in bad.stderr) == (2, True)

    with_saved_modules = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"])
    )
    with_saved_modules.save_pretrained(tmp_path / "modules")
    refused = run_merge(run.root, "--adapter", tmp_path / "modules", "--base", base, "-o", tmp_path / "p")
    assert (refused.returncode, "modules_to_save" in refused.stderr) == (2, True)
    assert not (tmp_path / "p").exists()


def test_a_quantized_run_can_merge_into_the_original_base_and_reports_the_difference(tmp_path, base, run_merge):
    rows = [{"prompt": f"Question {n}?", "chosen": "Yes.", "rejected": f"No {n}."} for n in range(6)]
    write_json_lines(tmp_path / "pairs.jsonl", rows)
    source = [Source(path=str(tmp_path / "pairs.jsonl"))]
    dataset = DatasetPlan(train=source, eval=source, max_prompt_length=64)
    run = make_run(tmp_path / "run", base, quantization=FOUR_BIT, dataset=dataset)
    trained = json.loads(run_merge(run.root, "--json").stdout)
    original = json.loads(run_merge(run.root, "--into", "original", "-o", tmp_path / "o", "--json").stdout)
    assert (trained["into"], original["into"]) == ("trained", "original")
    assert trained["max_logit_difference"] <= 1e-3
    assert trained["difference_to_trained"] is None
    assert original["max_logit_difference"] <= 1e-3  # compared with the adapter on the original base
    assert original["difference_to_trained"]["max_absolute"] > 0.02  # compared with the trained model
    assert trained["held_out"]["merged"] == pytest.approx(trained["held_out"]["unmerged"], abs=1e-4)
    assert trained["held_out"]["merged"]["pairs"] == trained["held_out"]["merged"]["available"] == 6
    assert abs(original["held_out"]["merged"]["nll_loss"] - original["held_out"]["unmerged"]["nll_loss"]) > 1e-4
    assert trained["generation"]["prompts"] == 2
    fewer = run_merge(run.root, "--held-out", "4", "-o", tmp_path / "fewer")
    assert "the first 4 of 6 held-out pairs: NLL" in fewer.stderr
