"""Redaction of secrets in text that leaves the machine: model cards, messages, logs and tracebacks."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from pathlib import Path
from types import TracebackType

from orpo_cli.secret_values import mask_secrets

REDACTED = "[redacted]"

_TOKENS = re.compile(r"\b(?:hf|api_org|ghp|gho|github_pat|glpat|sk)[-_][A-Za-z0-9_-]{8,}")
# `hub_token: x`, `training.hub_token=x`, `"api_key": "x"`; never eos_token or include_num_input_tokens_seen
_NAMED = re.compile(
    r"(?i)((?:hub_token|access_token|auth_token|api_key|password|secret)[\"']?\s*[:=]\s*)(?!null\b)[^\s,}#]+"
)
_IN_URL = re.compile(r"(://)[^/\s:@]+(?::[^/\s@]*)?@")
_SIGNED_URL = re.compile(r"(https?://[^\s?'\"]+\?)[^\s'\"<>]+")


def redact(text: str) -> str:
    """``text`` without hub tokens, API keys, passwords, and the query strings of URLs, which may contain signatures."""
    text = mask_secrets(text)
    if (login := _stored_token()) is not None:
        text = text.replace(login, REDACTED)
    text = _TOKENS.sub(REDACTED, text)
    text = _NAMED.sub(rf"\g<1>{REDACTED}", text)
    text = _IN_URL.sub(rf"\g<1>{REDACTED}@", text)
    return _SIGNED_URL.sub(rf"\g<1>{REDACTED}", text)


def _stored_token() -> str | None:
    """The token that `hf auth login` stored; None without one."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    try:
        token = Path(os.environ.get("HF_TOKEN_PATH") or os.path.join(home, "token")).expanduser().read_text().strip()
    except (OSError, ValueError, RuntimeError):
        return None
    return token if len(token) >= 8 else None


def print_redacted_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Exception hook (``sys.excepthook``) that prints the traceback without secrets."""
    print(redact("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def redact_log(name: str) -> None:
    """Redact the log of the library ``name``, which contains signed URLs."""
    for handler in logging.getLogger(name).handlers:
        if _redact_record not in handler.filters:
            handler.addFilter(_redact_record)


def _redact_record(record: logging.LogRecord) -> bool:
    record.msg, record.args = redact(record.getMessage()), ()
    return True
