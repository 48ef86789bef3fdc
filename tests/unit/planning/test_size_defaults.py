"""Default values by the size of the model, and how a reason names the size."""

from __future__ import annotations

import pytest

from orpo_cli.planning.size_defaults import DEFAULTS_BY_SIZE, UNKNOWN_SIZE, defaults_for_size, parameters_in_name


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        (49_280, "49,280 parameters"),
        (1_500_000, "1.5M parameters"),
        (134_515_008, "135M parameters"),
        (8_030_261_248, "8B parameters"),
    ],
)
def test_the_reason_names_the_size(parameters: int, text: str) -> None:
    assert defaults_for_size(parameters, "a-7B-model")[1] == text


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", 500_000_000),
        ("google/gemma-3-270m-it", 270_000_000),
        ("HuggingFaceTB/SmolLM2-1.7B", 1_700_000_000),
        ("Qwen/Qwen3-30B-A3B", 30_000_000_000),
        ("meta-llama/Llama-3.1-70b", 70_000_000_000),
        ("mistralai/Mixtral-8x7B-v0.1", None),  # of 47B parameters
        ("microsoft/Phi-3-mini-4k-instruct", None),
        ("org-7B/model", None),
        ("./checkpoint-12b4", None),
    ],
)
def test_the_size_in_the_name_of_a_model(name: str, parameters: int | None) -> None:
    assert parameters_in_name(name) == parameters


def test_a_model_of_unknown_size_has_the_defaults_of_the_size_in_its_name() -> None:
    assert defaults_for_size(None, "org/their-0.5B") == (DEFAULTS_BY_SIZE[0], "500M parameters (by the model's name)")
    assert defaults_for_size(None, "org/their-model") == (UNKNOWN_SIZE, "a 7B model (the size is not known here)")
