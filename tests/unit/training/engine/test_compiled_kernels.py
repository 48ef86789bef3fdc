"""Functions through torch.compile: the same gradients for rows of any length, and the plain function where nothing compiles."""

from __future__ import annotations

import shutil
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import setuptools  # noqa: F401  # torch's compiler imports it late, which fails once something has imported distutils
import torch
from support.architectures import PACKED, build
from support.steps import assert_gradients_equal, gradients, random_pairs

from orpo_cli.training.engine import compiled_kernels
from orpo_cli.training.engine.compiled_kernels import CompiledFunction, compile_rotary_functions, use_rotary_functions
from orpo_cli.training.engine.packed_step import Engine


def step(model: Any, pairs: Any, compile_rotary: bool) -> dict[str, torch.Tensor]:
    accelerator: Any = SimpleNamespace(num_processes=1, device=torch.device("cpu"))
    engine = Engine(model, accelerator.device, beta=0.1, loss_on_prompt=True, max_tokens=120)
    engine.rotary_functions = compile_rotary_functions(model) if compile_rotary else []
    engine.start_step(pairs)
    for part in engine.micro_batches(pairs):
        with engine.patched_model(part):
            engine.loss_share(model, part).backward()
    if compile_rotary:
        assert [each.compiles for _, each in engine.rotary_functions] == [True]
    return gradients(model)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
@pytest.mark.parametrize("name", ["llama", "gpt-neox"])
def test_a_compiled_rotary_embedding_gives_the_gradients_of_the_plain_one(name: str) -> None:
    model = build(PACKED[name](), torch.float32).eval()
    for seed in range(3):
        pairs = random_pairs(seed, count=6)
        assert_gradients_equal(step(model, pairs, True), step(model, pairs, False), 1e-5)


def test_the_original_functions_are_restored() -> None:
    from transformers.models.llama import modeling_llama

    before = modeling_llama.apply_rotary_pos_emb
    with use_rotary_functions(compile_rotary_functions(build(PACKED["llama"]()))):
        assert isinstance(modeling_llama.apply_rotary_pos_emb, CompiledFunction)
    assert modeling_llama.apply_rotary_pos_emb is before


def test_without_a_compiler_it_warns_once_and_runs_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(function: Any, **_: Any) -> Any:
        def fail(*_: Any) -> None:
            raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

        return fail

    monkeypatch.setattr(torch, "compile", no_compiler)
    double = CompiledFunction(lambda x: 2 * x)
    with pytest.warns(UserWarning, match="Failed to find C compiler"):
        assert double(21) == 42
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert double(4) == 8


def test_out_of_memory_is_not_taken_for_a_missing_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(compiled_kernels.torch, "compile", lambda function, **_: out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        CompiledFunction(lambda x: x)(1)
