"""File digests, read in blocks: sha256 to identify a file, xxh3 to detect damage ten times as fast."""

from __future__ import annotations

import hashlib
from pathlib import Path

_BLOCK_BYTES = 4 << 20


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file, as ``sha256sum`` prints it. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_xxh3(path: Path) -> str:
    """Hexadecimal xxh3_128 of a file (about 0.2 s for 1 GB in memory). Raises OSError."""
    import xxhash

    with path.open("rb") as file:
        digest, block = xxhash.xxh3_128(), bytearray(_BLOCK_BYTES)
        while count := file.readinto(block):
            digest.update(memoryview(block)[:count])
    return digest.hexdigest()
