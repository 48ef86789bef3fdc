"""Tasks of lm-evaluation-harness: measured with a loaded model, value by value; errors before a model is loaded."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support.tiny_eval_run import make_eval_run, open_target_quietly

from orpo_cli.errors import MachineError, UsageError
from orpo_cli.evaluation.benchmarks.figures import summarize
from orpo_cli.evaluation.benchmarks.harness import HarnessRequest, check_harness, measure_task

TASK = """task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {data}}}
output_type: multiple_choice
test_split: train
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["yes", "no"]
doc_to_target: "{{{{label}}}}"
metric_list: [{{metric: acc}}]
"""


def test_a_missing_package_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MachineError, match="lm_eval") as error:
        check_harness()
    assert "orpo-cli[benchmark]" in str(error.value.remedy)


@pytest.mark.slow  # the harness reads the files of all its tasks
def test_a_task_of_a_folder_is_measured_for_base_and_tuned(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"question": f"Is {n} even?", "label": n % 2}) + "\n" for n in range(6)))
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "tiny.yaml").write_text(TASK.format(data=data))
    target = open_target_quietly(make_eval_run(tmp_path).root)
    request = HarnessRequest("tiny_choice", 4, tasks, None, plain=False)
    for variant in target.variants:
        with target.use_variant(variant) as model:
            found = measure_task(model, target.tokenizer, request)
        assert len(found.values["acc"]) == 4
        assert summarize(found.values)["acc"] == found.figures["tiny_choice"]["acc,none"]
        assert (found.settings["questions"]["asked"], found.settings["questions"]["available"]) == (4, 6)
        assert "<|im_start|>user\nIs 0 even?<|im_end|>" in found.settings["prompts"]["first"]
    with pytest.raises(UsageError, match="has no such task"), target.use_variant("tuned") as model:
        measure_task(model, target.tokenizer, HarnessRequest("tiny_chioce", 4, tasks, None, plain=False))
