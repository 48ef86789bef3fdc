"""K-quants of a GGUF file, by llama.cpp's quantizer: the program ``llama-quantize`` or the package llama-cpp-python."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

from orpo_cli.atomic import NO_SPACE_REMEDY
from orpo_cli.child_process import run_child
from orpo_cli.errors import MachineError, RunError
from orpo_cli.os_errors import explain_os_error

# Names and numbers in llama.cpp (enum llama_ftype in llama.h).
K_QUANTS = {
    "q2_k": ("Q2_K", 10), "q3_k_m": ("Q3_K_M", 12), "q4_k_s": ("Q4_K_S", 14), "q4_k_m": ("Q4_K_M", 15),
    "q5_k_s": ("Q5_K_S", 16), "q5_k_m": ("Q5_K_M", 17), "q6_k": ("Q6_K", 18),
}  # fmt: skip

# Runs in a subprocess, because llama.cpp writes to the terminal and ends the process on errors.
_QUANTIZE_WITH_PACKAGE = """
import ctypes, sys, llama_cpp
params = llama_cpp.llama_model_quantize_default_params()
params.ftype = int(sys.argv[3])
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(params)))
"""


def find_quantizer() -> str:
    """The path of ``llama-quantize``, or the name of the package. Raises MachineError if neither is installed."""
    if program := shutil.which("llama-quantize"):
        return program
    if importlib.util.find_spec("llama_cpp") is not None:
        return "llama_cpp"
    raise MachineError(
        f"{', '.join(K_QUANTS)} need llama.cpp's quantizer, but neither the program llama-quantize nor the package "
        "llama-cpp-python is installed.",
        remedy="Install llama.cpp (brew install llama.cpp), or pip install llama-cpp-python, which compiles it (about ten "
        "minutes); or use --gguf-type q8_0.",
    )


def quantize(source: Path, target: Path, gguf_type: str) -> None:
    """Quantize the GGUF file ``source`` to the k-quant ``gguf_type`` in ``target``. Raises RunError with llama.cpp's message."""
    name, number = K_QUANTS[gguf_type]
    program = find_quantizer()
    if program == "llama_cpp":
        command = [sys.executable, "-P", "-c", _QUANTIZE_WITH_PACKAGE, str(source), str(target), str(number)]
    else:
        command = [program, str(source), str(target), name]
    done = run_child(command)
    if done.returncode != 0 or not target.is_file():
        if limit := explain_os_error(RuntimeError(done.stderr), f"cannot write {target.name}", NO_SPACE_REMEDY):
            raise limit
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise RunError(
            f"llama.cpp could not quantize to {name}: {lines[-1] if lines else 'no message'}",
            remedy="Use --gguf-type q8_0.",
        )
