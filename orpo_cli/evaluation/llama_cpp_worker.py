"""llama.cpp worker: a process that loads a GGUF file and answers batches of prompts, a line of JSON each.

It is a process of its own because llama.cpp writes to the terminal and ends the process on errors. It does not import torch.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, TextIO


def _load(request: dict[str, Any]) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = request["file"]
    params.n_ctx = request["context"]
    params.n_parallel = 1  # with several, the rounding of an answer depends on what is answered beside it
    params.warmup = False
    params.verbosity = 0
    params.cpuparams.n_threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    return xllamacpp.Server(params)


def _complete(server: Any, request: dict[str, Any], ids: list[int], seed: int) -> dict[str, Any]:
    answer = server.handle_completions(
        {
            "prompt": ids,
            "max_tokens": request["max_new_tokens"],
            "temperature": request["temperature"],
            "top_p": request["top_p"],
            "top_k": 0,
            "min_p": 0.0,
            "repeat_penalty": 1.0,
            "seed": seed,
            "cache_prompt": False,  # the rounding of an answer would depend on the prompt before it
        }
    )
    choice = answer["choices"][0]
    return {
        "text": choice["text"],
        "tokens": answer["usage"]["completion_tokens"],
        "finished": choice["finish_reason"] == "stop",
    }


def _serve(requests: TextIO, answers: TextIO) -> None:
    server = _load(json.loads(requests.readline()))
    print(json.dumps({"loaded": True}), file=answers, flush=True)
    for line in requests:
        request = json.loads(line)
        found = [_complete(server, request, *each) for each in zip(request["prompts"], request["seeds"], strict=True)]
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    # llama.cpp prints to standard output: only this process's answers may go to the pipe
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _serve(sys.stdin, pipe)
