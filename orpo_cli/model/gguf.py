"""GGUF files as transformers models: dequantized once and kept in a cache, which is verified when it is used."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from orpo_cli.cache_dir import cache_dir
from orpo_cli.cache_entry import Note, cached_entry
from orpo_cli.errors import MachineError
from orpo_cli.model.load_errors import explain_load_errors

_log = logging.getLogger(__name__)


def convert_gguf_cached(path: Path, note: Note = _log.warning) -> Path:
    """The folder of the converted model of ``path`` (.gguf), in float32. The first use converts it (seconds to minutes).

    The cache is in ``$ORPO_CACHE`` or ``$XDG_CACHE_HOME/orpo-cli``. Its key is the file's content and transformers' version,
    so a changed file is converted again; so is one whose converted copy is damaged, with a note.
    """
    digest = hashlib.sha256(version("transformers").encode())  # importing it would take a second
    try:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    except OSError as error:
        raise MachineError(f"{path}: cannot be read: {error.strerror or error}.") from error
    folder = cache_dir() / "gguf" / f"{path.stem}-{digest.hexdigest()[:16]}"
    try:
        cached_entry(folder, lambda partial: _convert(path, partial), note, what=f"converts {path.name}")
    except OSError as error:
        raise MachineError(
            f"cannot write the converted model to {folder}: {error.strerror or error}",
            remedy="Free some space, or point ORPO_CACHE at a folder you may write.",
        ) from error
    return folder


def _convert(path: Path, folder: Path) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise MachineError(f"{path.name}: reading GGUF needs the package gguf.", remedy="pip install 'orpo-cli[gguf]'")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _check_disk_space(path, folder)
    with explain_load_errors(str(path), "content"), gguf_bar_of_transformers():
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    model.hf_quantizer = None  # transformers does not save a model that is marked as quantized
    del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _check_disk_space(path: Path, folder: Path) -> None:
    """Raise MachineError where the disk of ``folder`` has no space for the weights of ``path`` in float32."""
    free = shutil.disk_usage(folder).free
    if free >= 8 * path.stat().st_size:  # of 4-bit weights; counting them reads the vocabulary, which takes seconds
        return
    from gguf import GGUFReader

    with explain_load_errors(str(path), "content"):
        needed = 4 * sum(int(tensor.n_elements) for tensor in GGUFReader(path).tensors)
    if free < needed:
        raise MachineError(
            f"{folder.parent}: converting {path.name} needs {needed / 1e9:.2f} GB of disk, {free / 1e9:.2f} GB are free.",
            remedy="Free some space or point ORPO_CACHE elsewhere.",
        )


@contextmanager
def gguf_bar_of_transformers() -> Iterator[None]:
    """Context in which transformers' bar of the conversion follows ``logging.disable_progress_bar`` like its other bars."""
    from transformers import modeling_gguf_pytorch_utils
    from transformers.utils import logging

    original = modeling_gguf_pytorch_utils.tqdm
    modeling_gguf_pytorch_utils.tqdm = logging.tqdm
    try:
        yield
    finally:
        modeling_gguf_pytorch_utils.tqdm = original
