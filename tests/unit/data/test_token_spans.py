"""Token spans: a secret of several tokens is masked as one, without its token ids."""

from __future__ import annotations

import pytest
from support.tiny import tiny_tokenizer

from orpo_cli.data.token_spans import _spans

SECRET = "Swordfish-0123456789"


@pytest.mark.parametrize("text", [f"say {SECRET} twice: {SECRET} now", SECRET, f"{SECRET} x", f"x {SECRET}"])
def test_no_part_of_a_secret_is_in_the_spans(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    plain = _spans(ids, tokenizer, "prompt")
    assert len(plain) > 5
    monkeypatch.setenv("A_TOKEN", SECRET)
    spans = _spans(ids, tokenizer, "prompt")
    shown = "".join(span.text for span in plain)
    assert SECRET in shown
    assert "".join(span.text for span in spans) == shown.replace(SECRET, "${A_TOKEN}")
    shown_ids = [token for span in spans for token in span.ids]
    assert len(shown_ids) == len(ids)
    assert all(token in (None, original) for token, original in zip(shown_ids, ids, strict=True))
    decoded = tokenizer.decode([token for token in shown_ids if token is not None])
    assert not any(part in decoded for part in ("Sword", "0123", "6789"))
