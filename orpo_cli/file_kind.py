"""File kind by content: what a file is whose content is not what its name says.

Downloads often leave something else under the right name: a git-lfs pointer, a web page, the error of a storage server.
Parsers then report a position in the file, and not what the file is.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

START_BYTES = 1024
TAR_MAGIC = slice(257, 262)  # bytes of a tar archive that hold "ustar"
HTML_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body", b"<title", b"<meta", b"<script", b"<!--")


class FileKind(NamedTuple):
    """``name`` without article; ``description`` with it; ``remedy`` for a file that should be something else."""

    name: str
    description: str
    remedy: str


_DOWNLOAD = "Download the file itself, and not the page that shows it: its raw or download link, or `hf download`."
_SIGNATURES = {
    b"\x1f\x8b": FileKind("gzip", "a gzip file", "Decompress it with `gzip -dc FILE > NEW`."),
    b"\x28\xb5\x2f\xfd": FileKind("zstd", "a zstd file", "Decompress it with `zstd -dc FILE > NEW`."),
    b"BZh": FileKind("bzip2", "a bzip2 file", "Decompress it with `bzip2 -dc FILE > NEW`."),
    b"\xfd7zXZ\x00": FileKind("xz", "an xz file", "Decompress it with `xz -dc FILE > NEW`."),
    b"7z\xbc\xaf\x27\x1c": FileKind("7z", "a 7-Zip archive", "Unpack it."),
    b"PK\x03\x04": FileKind("zip", "a zip archive", "Unpack it with `unzip`."),
    b"PAR1": FileKind("parquet", "a Parquet file", "Rename it to .parquet."),
    b"ARROW1": FileKind("arrow", "an Arrow file", "Rename it to .arrow."),
    b"GGUF": FileKind("gguf", "a GGUF model", "Rename it to .gguf."),
    b"SQLite format 3": FileKind("sqlite", "an SQLite database", "Write its rows as JSON Lines or Parquet."),
    b"%PDF": FileKind("pdf", "a PDF document", "Give the data in another format."),
    b"\xff\xfe\x00": FileKind("utf-32", "UTF-32 text", "Save it as UTF-8."),
    b"\xfe\xff": FileKind("utf-16", "UTF-16 text", "Save it as UTF-8."),
}  # fmt: skip
_LFS = FileKind(
    "git-lfs", "a git-lfs pointer, not the file itself", "Run `git lfs pull` in the repository, or download the file."
)
_HTML = FileKind("html", "a web page (HTML)", _DOWNLOAD)
_XML = FileKind("xml", "an XML document, perhaps the error of a storage server", _DOWNLOAD)
_PICKLE = FileKind("pickle", "a Python pickle", "Save the tensors or the rows in another format.")
_UTF16 = FileKind("utf-16", "UTF-16 text", "Save it as UTF-8.")
_TAR = FileKind("tar", "a tar archive", "Unpack it with `tar -xf`.")
_ZEROS = FileKind("zeros", "filled with zero bytes: a copy or a download was cut short", "Copy or download it again.")
MAX_SAFETENSORS_HEADER = 100_000_000  # bytes
EMPTY = FileKind("empty", "empty", "Copy or download it again.")


def file_kind(path: Path) -> FileKind | None:
    """Kind of the file by its first bytes; None for a kind that is not known here (JSON, safetensors). Raises OSError."""
    with path.open("rb") as file:
        return content_kind(file.read(START_BYTES))


def content_kind(start: bytes) -> FileKind | None:
    """Kind of the content that begins with ``start``."""
    if not start:
        return EMPTY
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < MAX_SAFETENSORS_HEADER:
        return None  # its first bytes, the length of its header, may be any: 640 is the start of a pickle
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        return _LFS
    for signature, kind in _SIGNATURES.items():
        if start.startswith(signature):
            return kind
    if start[TAR_MAGIC] == b"ustar":
        return _TAR
    if start[:2] == b"\xff\xfe" and start[2:3] not in (b"", b"\xff"):  # not the start of an Arrow stream
        return _UTF16
    if len(start) > 1 and start[0] == 0x80 and 2 <= start[1] <= 5:
        return _PICKLE
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(HTML_STARTS):
        return _HTML
    if text.startswith(b"<?xml"):
        return _HTML if b"<html" in text else _XML
    return _ZEROS if len(start) >= 64 and not start.strip(b"\0") else None
