"""Redaction of secrets in texts and logs."""

from __future__ import annotations

import logging

import pytest

from orpo_cli.redaction import REDACTED, redact, redact_log


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


def test_signed_urls_are_redacted_in_the_log_of_a_library():
    logger, said = logging.getLogger("some_library"), []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger.addHandler(handler)
    redact_log("some_library")
    logger.warning("HTTP Error %s for %s", 500, "https://s3.example.org/x?X-Amz-Signature=abc123")
    assert said == [f"HTTP Error 500 for https://s3.example.org/x?{REDACTED}"]
