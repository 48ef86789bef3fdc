"""Redaction of secrets in texts and logs."""

from __future__ import annotations

import pytest

from orpo_cli.redaction import REDACTED, redact, redact_record


@pytest.mark.parametrize(
    "secret",
    [
        "hf_abcdefghijklmnop",
        "--set training.hub_token=abc123",
        "hub_token: abc123 # mine",
        '"api_key": "abc123"',
        "path: https://me:abc123@example.org/pairs.jsonl",
        "path: https://me:abc@123abc@example.org/pairs.jsonl",
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
        "output_dir: runs/hf_experiment1",
        "hf-internal-testing/tiny-random-LlamaForCausalLM",
        "hf_quantizer_config.json",
        "https://arxiv.org/abs/2403.07691",
    ],
)
def test_text_without_secrets_is_unchanged(text):
    assert redact(text) == text
    assert redact_record({"text": [text]}) == {"text": [text]}


@pytest.mark.parametrize(
    "secret", ["hf_" + "a1" * 17, "sk-proj-" + "a1" * 20, "https://x:y@example.org", "ghp_" + "a1" * 18]
)
def test_a_record_has_no_tokens_and_passwords(secret):
    assert secret not in redact_record({"text": [f"before {secret}"]})["text"][0]


def test_the_token_of_the_environment_is_redacted_in_any_format(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "an-unusual-token")
    assert "unusual" not in redact("oops: an-unusual-token")
