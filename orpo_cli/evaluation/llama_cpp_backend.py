"""llama.cpp backend of answers: a GGUF file runs with its quantized weights, through the binding ``xllamacpp``."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.digests import file_xxh3
from orpo_cli.errors import MachineError, UsageError
from orpo_cli.evaluation.answer_backend import CompleteBatch, FixedBatches
from orpo_cli.evaluation.eval_target import Variant
from orpo_cli.evaluation.generation import Completion, SamplingParams
from orpo_cli.evaluation.prompts import Prompt
from orpo_cli.evaluation.seeded_sampling import prompt_seed
from orpo_cli.interruption import uninterrupted
from orpo_cli.model.load_errors import explain_load_errors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class LlamaCppBackend(FixedBatches):
    """Generation with llama.cpp. An answer ends at the end-of-generation tokens of the file."""

    prompts_per_batch = 8  # answered one after the other

    def __init__(self, file: Path) -> None:
        if importlib.util.find_spec("xllamacpp") is None:
            raise MachineError(
                "--backend llama-cpp needs the package xllamacpp.", remedy="pip install 'orpo-cli[llama-cpp]'"
            )
        self.file = file

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the file, with its chat template; no weights are read."""
        from transformers import AutoTokenizer

        with explain_load_errors(str(self.file), "tokenizer"):
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                self.file.parent, gguf_file=self.file.name
            )
        return tokenizer

    def settings(self) -> dict[str, Any]:
        """The content of the file."""
        return {"backend": "llama-cpp", "weights": file_xxh3(self.file)}

    def environment(self) -> dict[str, Any]:
        """Version of the binding, which contains llama.cpp."""
        return {"xllamacpp": version("xllamacpp")}

    @contextmanager
    def completing(
        self, variant: Variant, prompts: Sequence[Prompt], sampling: SamplingParams
    ) -> Iterator[CompleteBatch]:
        """Start the worker process; it ends with the context."""
        longest = max(len(prompt.input_ids) for prompt in prompts)
        with uninterrupted():
            worker = subprocess.Popen(
                [sys.executable, "-P", "-m", "orpo_cli.evaluation.llama_cpp_worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                start_new_session=True,  # a Ctrl-C is for this process, which ends the worker
            )  # fmt: skip

        def ask(request: dict[str, Any]) -> Any:
            assert worker.stdin is not None
            assert worker.stdout is not None
            try:
                print(json.dumps(request), file=worker.stdin, flush=True)
                return json.loads(worker.stdout.readline())
            except (BrokenPipeError, ValueError) as error:
                raise MachineError(
                    f"llama.cpp ended without an answer (exit code {worker.wait()}).",
                    remedy=f"Check that llama.cpp can load {self.file}, and that the memory suffices.",
                ) from error

        def complete(batch: list[int]) -> list[Completion]:
            seeds = [0 if sampling.seed is None else prompt_seed(sampling.seed, index) & 0xFFFFFFFF for index in batch]
            request = {
                "prompts": [prompts[index].input_ids for index in batch],
                "seeds": seeds,
                "max_new_tokens": sampling.max_new_tokens,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
            }
            return [Completion(**answer) for answer in ask(request)]

        try:
            ask({"file": str(self.file), "context": longest + sampling.max_new_tokens + 1})
            yield complete
        finally:
            worker.kill()
            worker.wait()


def gguf_file(name: str) -> Path:
    """The GGUF file that the user named. Raises UsageError for another model."""
    path = Path(name).expanduser()
    if path.suffix.lower() != ".gguf" or not path.is_file():
        raise UsageError(
            f"--backend llama-cpp needs a .gguf file, and {name} is none.",
            remedy="Export the run first, `orpo export RUN --format gguf`, and give the file.",
        )
    return path.absolute()
