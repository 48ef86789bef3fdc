"""Redaction of secrets in text that leaves the process: messages, records, model cards, logs and tracebacks."""

from __future__ import annotations

import re
from typing import Any

from orpo_cli.secret_patterns import SECRETS, START
from orpo_cli.secret_values import REDACTED, map_strings, mask_secrets

# Parts of tokens, as messages quote them. A name such as hf-internal-testing or hf_quantizer_config has separators, or is shorter.
_PARTS_OF_TOKENS = re.compile(
    START + r"(?:(?:hf|api_org|ghp|gho|github_pat)_[A-Za-z0-9]{16,}|(?:glpat|sk)-[A-Za-z0-9]{12,})"
)
_PATTERNS = tuple(pattern for kind, pattern in SECRETS.items() if kind not in ("a password in a URL", "a signed URL"))
# `hub_token: x`, `training.hub_token=x`, `"api_key": "x"`; never eos_token or include_num_input_tokens_seen
_NAMED = re.compile(
    r"(?i)((?:hub_token|access_token|auth_token|api_key|password|secret)[\"']?\s*[:=]\s*)(?!null\b)[^\s,}#]+"
)
_AUTHORIZATION = re.compile(r"(?i)(authorization\W{1,6}(?:basic|bearer)\s+)[A-Za-z0-9+/=._~-]+")
_IN_URL = re.compile(r"(://)[^/\s:@?#]*(?::[^/\s]*)?@")  # a password may contain @
_SIGNED_URL = re.compile(r"(https?://[^\s?'\"]+\?)[^\s'\"<>]+")


def redact(text: str) -> str:
    """``text`` without hub tokens, API keys, passwords, and the query strings of URLs, which may contain signatures."""
    text = _PARTS_OF_TOKENS.sub(REDACTED, _redact_tokens(text))
    text = _NAMED.sub(rf"\g<1>{REDACTED}", text)
    return _SIGNED_URL.sub(rf"\g<1>{REDACTED}", text)


def redact_record(document: Any) -> Any:
    """A JSON document (nested plain values) without known secrets, tokens, and passwords and signatures in URLs.

    Less is redacted than in a message, because a record quotes data and names: parts of tokens stay, and a URL keeps a query
    without a signature.
    """
    return map_strings(document, _redact_record_text)


def find_change(text: str, cleaned: str) -> tuple[int, int, str]:
    """(start, end, replacement) of the shortest part of ``text`` whose replacement makes it ``cleaned``."""
    start = _common_prefix(text, cleaned)
    kept = _common_prefix(text[start:][::-1], cleaned[start:][::-1])
    return start, len(text) - kept, cleaned[start : len(cleaned) - kept]


def _common_prefix(left: str, right: str) -> int:
    """Number of characters with which both begin."""
    return next(
        (index for index, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
    )


def _redact_record_text(text: str) -> str:
    text = _redact_tokens(text)
    return _SIGNED_URL.sub(rf"\g<1>{REDACTED}", text) if SECRETS["a signed URL"].search(text) else text


def _redact_tokens(text: str) -> str:
    text = mask_secrets(text)
    for pattern in _PATTERNS:
        text = pattern.sub(REDACTED, text)
    text = _AUTHORIZATION.sub(rf"\g<1>{REDACTED}", text)
    return _IN_URL.sub(rf"\g<1>{REDACTED}@", text)
