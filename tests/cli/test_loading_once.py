"""Commands load tokenizer and weights once: they open the files as often as a program that calls ``from_pretrained`` once."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.file_opens import count_opens
from support.tiny import write_recipe

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="inotify counts the opens")
BASE, ADAPTER = "model/model.safetensors", "adapter/adapter_model.safetensors"


def load_once(run: Path) -> Counter[str]:
    """Opens of a program that loads base, adapter and tokenizer with the libraries."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with count_opens(run.parent / "model", run / "adapter") as opens:
        AutoTokenizer.from_pretrained(run / "adapter")
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(run.parent / "model"), run / "adapter")
    return opens


def test_train_eval_and_generate_load_weights_and_tokenizer_once(
    tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ORPO_PAIR_CACHE", "1")
    run = tmp_path / "run"
    recipe = write_recipe(tmp_path)
    with count_opens(tmp_path / "model") as trained:
        assert orpo_here("train", recipe).returncode == 0
    once = load_once(run)
    assert once[BASE] >= 1
    assert once[ADAPTER] >= 1
    assert trained[BASE] - 1 <= once[BASE]  # the digest of the file is computed, too
    for arguments in (["eval", run], ["generate", run, "--prompt", "Is it raining?", "--compare"]):
        with count_opens(tmp_path / "model", run / "adapter") as opens:
            done = orpo_here(*arguments)
        assert done.returncode == 0, done.stderr
        assert {name: opens[name] for name in (BASE, ADAPTER)} == {name: once[name] for name in (BASE, ADAPTER)}
        assert opens["adapter/tokenizer.json"] <= once["adapter/tokenizer.json"]
        assert opens["model/tokenizer.json"] == 0


def test_a_first_training_loads_its_tokenizer_once(
    tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    monkeypatch.setenv("ORPO_CACHE", str(tmp_path / "cache"))
    loaded = []
    load = AutoTokenizer.from_pretrained

    def count(*arguments: Any, **options: Any) -> Any:
        loaded.append(arguments[0])
        return load(*arguments, **options)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", count)
    assert orpo_here("train", write_recipe(tmp_path, steps=1)).returncode == 0
    assert loaded == [str(tmp_path / "model")]
