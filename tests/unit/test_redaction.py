"""Redaction of secrets in texts and logs."""

from __future__ import annotations

import pytest

from orpo_cli.redaction import REDACTED, redact


@pytest.mark.parametrize(
    "secret",
    [
        "hf_abcdefghijklmnop",
        "--set training.hub_token=abc123",
        "hub_token: abc123 # mine",
        '"api_key": "abc123"',
        "path: https://me:abc123@example.org/pairs.jsonl",
        "path: https://example.org/pairs.jsonl?X-Amz-Signature=abc123&Expires=1",
        "sk-abc123def456",
    ],
)
def test_secrets_are_redacted(secret):
    cleaned = redact(f"before {secret}")
    assert REDACTED in cleaned
    assert "abc" not in cleaned


@pytest.mark.parametrize(
    "text",
    [
        "eos_token: <|im_end|>",
        "include_num_input_tokens_seen: true",
        "max_tokens_per_microbatch: 512",
        "hub_token: null",
        "output_dir: runs/hf_small",
        "https://arxiv.org/abs/2403.07691",
    ],
)
def test_text_without_secrets_is_unchanged(text):
    assert redact(text) == text


def test_the_token_of_the_environment_is_redacted_in_any_format(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "an-unusual-token")
    assert "unusual" not in redact("oops: an-unusual-token")
