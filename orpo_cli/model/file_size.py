"""File sizes as users write them: 5GB or 512MiB, for shards and memory limits."""

from __future__ import annotations

import re

from orpo_cli.errors import UsageError

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_size(text: str, option: str) -> int:
    """Bytes of a size. Raises UsageError that names ``option``.

    The parsers of huggingface_hub, transformers and accelerate each refuse some of these units.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B)", text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * UNITS[match[2].upper()]) if match else 0
    if size < 1:
        raise UsageError(f"{option} {text}: not a size.", remedy="Give a number and a unit, such as 5GB or 512MiB.")
    return size
