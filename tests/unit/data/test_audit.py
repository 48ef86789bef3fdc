"""Data audit: statistics compared with direct counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.data_tokenizers import NAMES, tokenizer_of
from support.json_lines import write_json_lines

from orpo_cli.data.audit import BINS, _bin_edges, audit, length_bias, truncation
from orpo_cli.data.pair_encoder import PairEncoder
from orpo_cli.data.prepare import PairTables, prepare_tables
from orpo_cli.data.table import expand_pair
from orpo_cli.data.token_spans import token_spans
from orpo_cli.recipe.schema import DatasetSection


def parts_of(tmp_path: Path, rows: list[Any], max_length: int = 60, max_prompt_length: int = 40) -> PairTables:
    write_json_lines(tmp_path / "x.jsonl", rows)
    section = DatasetSection.model_validate({"train": {"path": str(tmp_path / "x.jsonl")}})
    return prepare_tables(
        section, tokenizer_of("chatml"), max_length=max_length, max_prompt_length=max_prompt_length, note=lambda _: None
    )


ROWS = [
    {"prompt": f"q {'a ' * n}", "chosen": f" {'b ' * (n + 1)}", "rejected": f" {'c ' * (3 * n % 20 + 1)}"}
    for n in range(30)
]


def test_lengths_are_those_of_the_pairs(tmp_path: Path) -> None:
    parts = parts_of(tmp_path, ROWS)
    found = audit(parts.train, 60)
    rows = [expand_pair(row) for row in parts.train.dataset()]
    prompts = sorted(len(row["prompt_input_ids"]) for row in rows)
    assert found.pairs == len(rows)
    assert found.lengths["prompt"]["max"] == prompts[-1]
    assert found.lengths["prompt"]["p50"] == prompts[len(prompts) // 2 - (len(prompts) % 2 == 0)]
    assert found.lengths["sequence"]["max"] == max(row["length"] for row in rows)
    assert found.tokens_of_two_passes == sum(
        len(row["chosen_input_ids"]) + len(row["rejected_input_ids"]) for row in rows
    )
    assert found.tokens == found.tokens_of_two_passes - sum(prompts)
    assert sum(found.histogram["counts"]) == len(rows)


@pytest.mark.parametrize(("lengths", "bins"), [([131, 133, 133], 3), ([7, 7], 1), ([100, 119, 120], 11)])
def test_bins_of_the_histogram_are_whole_numbers_of_tokens(lengths: list[int], bins: int) -> None:
    edges = _bin_edges(min(lengths), max(lengths))
    assert len(edges) - 1 == bins <= BINS
    assert len(set(np.diff(edges))) == 1
    assert edges[0] == min(lengths) <= max(lengths) < edges[-1]


def test_the_fraction_of_truncated_pairs_equals_preparing_with_that_length(tmp_path: Path) -> None:
    found = audit(parts_of(tmp_path, ROWS, 1000, 500).train, 1000)
    for max_length, max_prompt_length in ((60, 30), (30, 15)):
        parts = parts_of(tmp_path, ROWS, max_length, max_prompt_length)
        rows, kept = parts.report.sources[0], parts.train
        cut = [
            bool(kept.full_token_counts("prompt")[at] > kept.token_counts("prompt")[at])
            or any(kept.full_token_counts(part)[at] > kept.token_counts(part)[at] for part in ("chosen", "rejected"))
            for at in range(len(kept))
        ]
        fraction = audit(kept, max_length).cut[max_length]
        assert fraction == pytest.approx(sum(cut) / len(cut))
        assert rows.kept == len(kept)
    assert found.cut[1000] == 0
    assert list(found.cut) == [256, 512, 1000, 1024, 2048, 4096, 8192]


def test_length_bias_is_detected() -> None:
    rng = np.random.default_rng(0)
    short, long = rng.integers(5, 50, 400), rng.integers(60, 120, 400)
    biased = length_bias(long, short)
    assert (biased.chosen_longer, biased.rejected_longer) == (1.0, 0.0)
    assert biased.correlation > 0.8
    assert "longer" in str(biased.warning)
    assert "shorter" in str(length_bias(short, long).warning)
    fair = length_bias(rng.integers(5, 50, 4000), rng.integers(5, 50, 4000))
    assert abs(fair.correlation) < 0.05
    assert fair.warning is None
    assert length_bias(np.array([3, 3]), np.array([3, 3])).correlation == 0.0
    assert length_bias(long[:99], short[:99]).warning is None  # too few pairs to tell
    assert length_bias(long[:100], short[:100]).warning is not None


def test_truncation_above_a_fifth_is_a_warning_with_the_lengths_that_mend_it() -> None:
    lengths = np.array([100] * 79 + [400] * 19 + [3000] * 2)
    found = truncation(lengths, 256, [lengths > 256, lengths > 1000])
    assert (found.fraction, found.few, found.none, found.completions) == (0.21, 448, 3008, 0.21)
    assert (lengths > found.few).mean() <= 0.05
    assert (lengths > found.none).sum() == 0
    assert "21% of the pairs are longer than max_length 256" in str(found.warning)
    assert "completion that loses its end teaches the model not to stop. " in str(found.warning)
    assert "training.max_length=448 truncates at most 5% of them, 3008 none" in str(found.warning)
    whole = [np.zeros(100, bool)] * 2
    assert truncation(np.array([100] * 80 + [400] * 20), 256, whole).warning is None
    same = truncation(np.array([100] * 70 + [400] * 30), 256, whole)
    assert "only prompts are, so the answers are trained without" in str(same.warning)
    assert str(same.warning).endswith("training.max_length=448 truncates none of them")


def test_repeated_prompts_are_counted(tmp_path: Path) -> None:
    rows = [
        {"prompt": prompt, "chosen": f" {n}", "rejected": " no"}
        for n, prompt in enumerate(["One?", "one? ", "two", "TWO"])
    ]
    assert audit(parts_of(tmp_path, rows).train, 60).same_prompt == 2


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(text=st.text(min_size=1, max_size=40).filter(lambda text: text.strip()))
def test_spans_cover_every_token_and_decode_to_the_text(name: str, text: str) -> None:
    tokenizer = tokenizer_of(name)
    prompt = tokenizer("Say something:", add_special_tokens=False)["input_ids"]
    answer = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    row = {
        "prompt_input_ids": prompt,
        "chosen_answer_ids": answer,
        "rejected_answer_ids": answer[:-1],
    }
    for on_prompt in (True, False):
        parts = token_spans(row, PairEncoder(tokenizer), loss_on_prompt=on_prompt)
        assert [token for span in parts["chosen"] for token in span.ids] == answer
        assert parts["chosen"][-1].purpose == "end"
        assert {span.purpose for span in parts["prompt"]} == {"prompt_nll" if on_prompt else "prompt"}
        assert {span.purpose for span in parts["rejected"]} <= {"rejected"}
        assert {span.purpose for span in parts["chosen"][:-1]} <= {"chosen"}
    shown = "".join(span.text for span in parts["prompt"])
    assert shown.strip() == "Say something:"
