"""File digests, read in blocks: sha256 to identify a file, xxh3 to detect damage ten times as fast."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

SEGMENT_BYTES = 64 << 20  # of a file; segments are digested in parallel
_THREADS = 4
_BLOCK_BYTES = 4 << 20


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file, as ``sha256sum`` prints it. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def segment_starts(size: int) -> range:
    """Positions in a file of ``size`` bytes at which its segments start; one for an empty file."""
    return range(0, size or 1, SEGMENT_BYTES)


def segment_digest(path: Path, start: int) -> bytes:
    """xxh3_128 of one segment of a file. Raises OSError."""
    import xxhash

    digest, block, left = xxhash.xxh3_128(), memoryview(bytearray(_BLOCK_BYTES)), SEGMENT_BYTES
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while count := file.readinto(block[:left]):
            digest.update(block[:count])
            left -= count
    return digest.digest()


def join_digests(segments: Iterable[bytes]) -> str:
    """The digest of a file: xxh3_128 of those of its segments, hexadecimal."""
    import xxhash

    return xxhash.xxh3_128_hexdigest(b"".join(segments))


def file_xxh3(path: Path) -> str:
    """Hexadecimal xxh3_128 of the segments of a file, in parallel. Raises OSError."""
    starts = segment_starts(path.stat().st_size)
    if len(starts) == 1:
        return join_digests([segment_digest(path, 0)])
    with ThreadPoolExecutor(_THREADS) as pool:
        return join_digests(pool.map(partial(segment_digest, path), starts))
