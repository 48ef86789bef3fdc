"""Checks of a GGUF file in llama.cpp, through the binding ``xllamacpp`` if it is installed.

llama.cpp runs in a subprocess, ``python -m orpo_cli.exporting.gguf.llama_cpp``, because it writes to the terminal and ends the
process on errors. The subprocess reads texts as JSON from standard input and prints its results as JSON on the last line.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.child_process import run_child
from orpo_cli.exporting.export_record import Checklist
from orpo_cli.exporting.gguf.gguf_check import adds_bos_token
from orpo_cli.exporting.reference_logits import MAX_PROMPT_TOKENS, PROMPTS, ReferenceLogits, token_ids

if TYPE_CHECKING:
    from torch import Tensor

TOP_TOKENS = 10  # most probable next tokens that are compared
ANSWER_COUNT, MAX_NEW_TOKENS = 4, 128
TIMEOUT_SECONDS = 3600
# Allowed difference of log probabilities. llama.cpp computes in other dtypes than torch (attention in float16, products with
# quantized weights in 8 bits); measured on SmolLM2: see docs/how-to/export.md.
MAX_LOG_PROBABILITY_DIFFERENCE = {"f32": 0.1, "f16": 0.1, "bf16": 0.3, "q8_0": 1.0}


def is_installed() -> bool:
    """Whether the binding is installed."""
    return importlib.util.find_spec("xllamacpp") is not None


def check_in_llama_cpp(
    file: Path, reference: ReferenceLogits, checklist: Checklist, gguf_type: str
) -> dict[str, float]:
    """Load the file in llama.cpp and compare tokens and next-token probabilities with the model's; check that answers end."""
    from importlib.metadata import version

    chat = bool(reference.tokenizer.chat_template)
    bos = str(reference.tokenizer.bos_token) if adds_bos_token(reference) else ""
    texts = [text.removeprefix(bos) for text in reference.prompt_texts]  # llama.cpp adds it
    request = {"file": str(file), "texts": texts, "questions": list(PROMPTS[:ANSWER_COUNT]) if chat else []}
    command = [sys.executable, "-P", "-m", "orpo_cli.exporting.gguf.llama_cpp"]  # -P: not from the working directory
    try:
        done = run_child(command, text=json.dumps(request), timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        checklist.check("llama.cpp", False, f"does not answer within {TIMEOUT_SECONDS} s")
        return {}
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        checklist.check("llama.cpp", False, f"does not load it: {lines[-1] if lines else 'no message'}")
        return {}
    checklist.check("llama.cpp", True, f"loads it (xllamacpp {version('xllamacpp')})")
    _check_tokens(found, reference, checklist)
    measured = _check_next_tokens(found["next"], reference, checklist, gguf_type) if reference.logits else {}
    if chat:
        _check_stops(found["answers"], checklist)
    return measured


def _check_tokens(found: dict[str, Any], reference: ReferenceLogits, checklist: Checklist) -> None:
    expected = [len(ids) for ids in token_ids(reference.tokenizer, reference.prompt_texts)]
    texts = [each["tokens"] for each in found["next"]]
    same = sum(a in (b, MAX_PROMPT_TOKENS) for a, b in zip(expected, texts, strict=True))
    passed = same == len(expected)
    checklist.check("llama.cpp tokens", passed, f"as many as the model's in {same} of {len(expected)} texts")
    chats = [each["tokens"] for each in found["answers"]]
    if chats:
        same = sum(a in (b, MAX_PROMPT_TOKENS) for a, b in zip(expected, chats, strict=False))
        checklist.check(
            "llama.cpp chat template", same == len(chats), f"as many tokens in {same} of {len(chats)} chats"
        )


def _check_next_tokens(
    next_tokens: list[dict[str, Any]], reference: ReferenceLogits, checklist: Checklist, gguf_type: str
) -> dict[str, float]:
    """Compare the probabilities of the next token after each text with the model's."""
    largest, same, compared = 0.0, 0, 0
    for each, ids, logits in zip(next_tokens, reference.prompt_ids, reference.logits, strict=True):
        # Skipped: prompts truncated for the reference, prompts with other tokens (reported above), and next tokens that are
        # part of a character, for which llama.cpp gives no probabilities.
        if each["tokens"] != ids.shape[1] or not each["ids"]:
            continue
        expected = logits[-1].log_softmax(-1)
        same += each["ids"][0] == int(expected.argmax())
        largest = max(largest, _max_difference(expected, each))
        compared += 1
    if not compared:
        checklist.remark("llama.cpp next token", "not compared: llama.cpp gave no probabilities")
        return {}
    allowed = MAX_LOG_PROBABILITY_DIFFERENCE.get(gguf_type, 8.0)
    checklist.check(
        "llama.cpp next token",
        largest <= allowed and same >= 0.5 * compared,  # two tokens may have almost the same probability
        f"the same after {same} of {compared} texts; log probabilities of the top {TOP_TOKENS} within {largest:.2g} of the "
        "model's",
    )
    return {"max_log_probability_difference": largest, "same_next_token": same / compared}


def _max_difference(expected: Tensor, found: dict[str, Any]) -> float:
    import torch

    return float((expected[found["ids"]] - torch.tensor(found["log_probabilities"])).abs().max())


def _check_stops(answers: list[dict[str, Any]], checklist: Checklist) -> None:
    stopped = sum(each["stopped"] for each in answers)
    found = f"{stopped} of {len(answers)} answers end within {MAX_NEW_TOKENS} tokens"
    if stopped:
        checklist.check("llama.cpp stops", True, found)
    else:  # the end tokens were checked in the metadata: the model may not have learned to end its answers
        checklist.remark("llama.cpp stops", found)


def _run_llama_cpp(request: dict[str, Any]) -> dict[str, Any]:
    """In the subprocess: next tokens after the texts, and answers to the questions."""
    import os

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = request["file"]
    params.n_ctx = 2048
    params.n_parallel = 1
    params.warmup = False
    params.use_jinja = True
    params.verbosity = 0
    params.cpuparams.n_threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    server = xllamacpp.Server(params)

    def next_token(text: str) -> dict[str, Any]:
        options = {"n_predict": 1, "n_probs": TOP_TOKENS, "temperature": 0, "cache_prompt": False}
        answer = server.handle_completions({"prompt": text, **options})
        logprobs = answer["choices"][0]["logprobs"]  # None if the token is part of a character
        top = logprobs["content"][0]["top_logprobs"] if logprobs and logprobs["content"] else []
        values = {"ids": [each["id"] for each in top], "log_probabilities": [each["logprob"] for each in top]}
        return {"tokens": answer["usage"]["prompt_tokens"], **values}

    def chat(text: str) -> dict[str, Any]:
        message = {"role": "user", "content": text}
        options = {"max_tokens": MAX_NEW_TOKENS, "temperature": 0, "cache_prompt": False}
        answer = server.handle_chat_completions({"messages": [message], **options})
        stopped = answer["choices"][0]["finish_reason"] == "stop"
        return {"tokens": answer["usage"]["prompt_tokens"], "stopped": stopped}

    return {
        "next": [next_token(text) for text in request["texts"]],
        "answers": [chat(text) for text in request["questions"]],
    }


if __name__ == "__main__":
    print("\n" + json.dumps(_run_llama_cpp(json.load(sys.stdin))), flush=True)
