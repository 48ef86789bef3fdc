"""A GGUF file in llama.cpp itself, through the binding ``xllamacpp`` where that is installed.

It runs in a process of its own, ``python -m orpo_cli.export.gguf.llama_cpp``: llama.cpp writes to the terminal as it likes,
and ends the process where something is wrong. Texts go in on standard input, what was found comes out on the last line.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.export.export_record import Checklist
from orpo_cli.export.gguf.gguf_check import adds_bos_token
from orpo_cli.export.reference_logits import MAX_PROMPT_TOKENS, PROMPTS, ReferenceLogits, token_ids

if TYPE_CHECKING:
    from torch import Tensor

TOP_TOKENS = 10  # of the next token's distribution, so many are compared
ANSWER_COUNT, MAX_NEW_TOKENS = 4, 128  # so many answers are tried, of so many tokens at most
TIMEOUT_SECONDS = 3600
# How far the logarithms of the likeliest probabilities may be. llama.cpp computes in other types than torch (its attention in
# float16, products with quantized weights in 8 bits); measured on SmolLM2: see docs/how-to/export.md.
MAX_LOG_PROBABILITY_DIFFERENCE = {"f32": 0.1, "f16": 0.1, "bf16": 0.3, "q8_0": 1.0}


def is_installed() -> bool:
    """Whether there is a binding."""
    return importlib.util.find_spec("xllamacpp") is not None


def check_in_llama_cpp(file: Path, known: ReferenceLogits, checklist: Checklist, gguf_type: str) -> dict[str, float]:
    """Load the file in llama.cpp: it must read texts as the same tokens, say what the model says, and stop by itself."""
    from importlib.metadata import version

    chat = bool(known.tokenizer.chat_template)
    bos = str(known.tokenizer.bos_token) if adds_bos_token(known) else ""
    texts = [text.removeprefix(bos) for text in known.prompt_texts]  # llama.cpp puts it in front
    order = {"file": str(file), "texts": texts, "questions": list(PROMPTS[:ANSWER_COUNT]) if chat else []}
    command = [sys.executable, "-m", "orpo_cli.export.gguf.llama_cpp"]
    done = subprocess.run(
        command, input=json.dumps(order), capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
    )
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        checklist.check("llama.cpp", False, f"does not load it: {lines[-1] if lines else 'no message'}")
        return {}
    checklist.check("llama.cpp", True, f"loads it (xllamacpp {version('xllamacpp')})")
    _check_tokens(found, known, checklist)
    measured = _check_next_tokens(found["next"], known, checklist, gguf_type) if known.logits else {}
    if chat:
        _check_stops(found["answers"], checklist)
    return measured


def _check_tokens(found: dict[str, Any], known: ReferenceLogits, checklist: Checklist) -> None:
    ours = [len(ids) for ids in token_ids(known.tokenizer, known.prompt_texts)]
    texts = [each["tokens"] for each in found["next"]]
    same = sum(a in (b, MAX_PROMPT_TOKENS) for a, b in zip(ours, texts, strict=True))
    checklist.check("llama.cpp tokens", same == len(ours), f"as many as the model's in {same} of {len(ours)} texts")
    chats = [each["tokens"] for each in found["answers"]]
    if chats:
        same = sum(a in (b, MAX_PROMPT_TOKENS) for a, b in zip(ours, chats, strict=False))
        checklist.check(
            "llama.cpp chat template", same == len(chats), f"as many tokens in {same} of {len(chats)} chats"
        )


def _check_next_tokens(
    words: list[dict[str, Any]], known: ReferenceLogits, checklist: Checklist, gguf_type: str
) -> dict[str, float]:
    """The distribution of the next token after each text, against that of the model."""
    worst, same, compared = 0.0, 0, 0
    for each, ids, logits in zip(words, known.prompt_ids, known.logits, strict=True):
        if each["tokens"] != ids.shape[1] or not each["ids"]:
            continue  # it was cut for the reference, or is read otherwise, which was said; or no whole character came out
        expected = logits[-1].log_softmax(-1)
        same += each["ids"][0] == int(expected.argmax())
        worst = max(worst, _max_difference(expected, each))
        compared += 1
    if not compared:
        checklist.remark("llama.cpp next token", "not compared: no text was answered with a whole character")
        return {}
    within = MAX_LOG_PROBABILITY_DIFFERENCE.get(gguf_type, 8.0)
    checklist.check(
        "llama.cpp next token",
        worst <= within and same >= 0.5 * compared,  # two tokens may be as likely as each other
        f"the same after {same} of {compared} texts; logarithms of the {TOP_TOKENS} likeliest within {worst:.2g} of the model's",
    )
    return {"max_log_probability_difference": worst, "same_next_token": same / compared}


def _max_difference(expected: Tensor, found: dict[str, Any]) -> float:
    import torch

    return float((expected[found["ids"]] - torch.tensor(found["logarithms"])).abs().max())


def _check_stops(answers: list[dict[str, Any]], checklist: Checklist) -> None:
    stopped = sum(each["stopped"] for each in answers)
    found = f"{stopped} of {len(answers)} answers end by themselves within {MAX_NEW_TOKENS} tokens"
    if stopped:
        checklist.check("llama.cpp stops", True, found)
    else:  # its end tokens have been checked: a model that was not taught to end an answer is as it is
        checklist.remark("llama.cpp stops", found)


def _run_llama_cpp(order: dict[str, Any]) -> dict[str, Any]:
    """In the process of its own: what llama.cpp makes of the texts."""
    import os

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = order["file"]
    params.n_ctx = 2048
    params.n_parallel = 1
    params.warmup = False
    params.use_jinja = True
    params.verbosity = 0
    params.cpuparams.n_threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    server = xllamacpp.Server(params)

    def next_token(text: str) -> dict[str, Any]:
        asked = {"prompt": text, "n_predict": 1, "n_probs": TOP_TOKENS, "temperature": 0, "cache_prompt": False}
        answer = server.handle_completions(asked)
        logprobs = answer["choices"][0]["logprobs"]  # none where the token is a part of a character
        top = logprobs["content"][0]["top_logprobs"] if logprobs and logprobs["content"] else []
        values = {"ids": [each["id"] for each in top], "logarithms": [each["logprob"] for each in top]}
        return {"tokens": answer["usage"]["prompt_tokens"], **values}

    def chat(text: str) -> dict[str, Any]:
        message = {"role": "user", "content": text}
        asked = {"messages": [message], "max_tokens": MAX_NEW_TOKENS, "temperature": 0, "cache_prompt": False}
        answer = server.handle_chat_completions(asked)
        stopped = answer["choices"][0]["finish_reason"] == "stop"
        return {"tokens": answer["usage"]["prompt_tokens"], "stopped": stopped}

    return {
        "next": [next_token(text) for text in order["texts"]],
        "answers": [chat(text) for text in order["questions"]],
    }


if __name__ == "__main__":
    print("\n" + json.dumps(_run_llama_cpp(json.load(sys.stdin))), flush=True)
