"""Damaged Arrow and Parquet files: each is refused with exit code 4 or read, and none ends the process.

The formats have no digest of their values, so a flipped bit within a text is read as another text.
"""

from __future__ import annotations

import json
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import feather, parquet
from support.faults.outcome import Outcome
from support.forks import start_fork, wait
from support.tiny import pairs, tiny_tokenizer
from transformers import PreTrainedTokenizerBase

from orpo_cli.data.prepare import prepare
from orpo_cli.data.sources.files import read_rows
from orpo_cli.errors import OrpoError
from orpo_cli.recipe.schema import DatasetSection

ROWS = pairs(60)
CHUNK_ROWS = 13
TIMEOUT_SECONDS = 60
OUTCOMES = ("exit 4", "right rows", "other rows")


def campaign(folder: Path, count: int, seed: int = 0) -> Counter[str]:
    """Outcomes of ``count`` damaged files, each read and prepared in a forked process.

    ``exit 4``, ``right rows`` (the damage hit nothing that is used), ``other rows`` (it hit a value); any other key is a crash
    (``signal 11``), a traceback (its last line) or another exit code, with the name and the damage of the file.
    """
    originals = [(path.name, path.read_bytes(), _rows(path)) for path in _write_files(folder)]
    tokenizer = tiny_tokenizer()
    outcomes: Counter[str] = Counter()
    for number in range(count):
        name, content, rows = originals[number % len(originals)]
        generator = random.Random(seed * 1_000_003 + number)
        damage, damaged = _damage(content, generator)
        path = folder / "damaged" / f"x.{name.rpartition('.')[2]}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(damaged)
        outcome = _read_in_fork(path, rows, tokenizer)
        outcomes[outcome if outcome in OUTCOMES else f"{outcome} ({name}, {damage}, case {number})"] += 1
    return outcomes


def _write_files(folder: Path) -> Iterator[Path]:
    """Stream, file and Parquet files of messages, of texts, and of shared and large texts, with several compressions."""
    texts = {key: [json.dumps(row[key]) for row in ROWS] for key in ROWS[0]}
    tables = {
        "messages": pa.Table.from_pylist(ROWS),
        "texts": pa.table(texts),
        "shared": pa.table(
            {
                **texts,
                "chosen": pa.array(["yes", "of course"] * 30).dictionary_encode(),
                "rejected": pa.array(texts["rejected"], pa.large_string()),
            }
        ),
    }
    for kind, table in tables.items():
        for compression in (None, "lz4", "zstd"):
            path = folder / f"{kind}-{compression}.stream.arrow"
            options = pa.ipc.IpcWriteOptions(compression=compression)
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema, options=options) as writer:
                writer.write_table(table, max_chunksize=CHUNK_ROWS)
            yield path
            path = folder / f"{kind}-{compression}.file.arrow"
            feather.write_feather(table, path, compression=compression or "uncompressed", chunksize=CHUNK_ROWS)
            yield path
        for compression in ("none", "snappy", "zstd"):
            path = folder / f"{kind}-{compression}.parquet"
            checksums = compression == "snappy"
            parquet.write_table(
                table, path, compression=compression, row_group_size=CHUNK_ROWS, write_page_checksum=checksums
            )
            yield path


def _damage(content: bytes, generator: random.Random) -> tuple[str, bytes]:
    """A truncated copy, or one with flipped bits, a range of zeros or two swapped ranges."""
    damage = generator.choice(["truncated", "flipped", "zeros", "swapped"])
    damaged, size = bytearray(content), len(content)
    if damage == "truncated":
        del damaged[generator.randrange(size) :]
    elif damage == "flipped":
        for _ in range(generator.choice([1, 1, 3, 20])):
            damaged[generator.randrange(size)] ^= 1 << generator.randrange(8)
    elif damage == "zeros":
        length, at = generator.choice([4, 64, 512]), generator.randrange(size)
        damaged[at : at + length] = bytes(min(length, size - at))
    else:
        length = generator.choice([8, 64, 256])
        one, other = generator.randrange(size - length), generator.randrange(size - length)
        damaged[one : one + length], damaged[other : other + length] = (
            content[other : other + length],
            content[one : one + length],
        )
    return damage, bytes(damaged)


def _read_in_fork(path: Path, expected: list[Any], tokenizer: PreTrainedTokenizerBase) -> str:
    answer = path.parent.with_name("answer")

    def read() -> None:
        signal.alarm(TIMEOUT_SECONDS)
        answer.write_text(_outcome(path, expected, tokenizer))

    code = wait(start_fork(read), 2 * TIMEOUT_SECONDS)
    return answer.read_text() if code == 0 else f"signal {-code}"


def _outcome(path: Path, expected: list[Any], tokenizer: PreTrainedTokenizerBase) -> str:
    section = DatasetSection.model_validate({"train": {"path": str(path)}})
    try:
        rows = _rows(path)
        prepare(section, tokenizer, max_length=192, max_prompt_length=96, note=lambda _: None)
    except OrpoError as error:
        return f"exit {error.exit_code}" if error.remedy and str(path) in str(error) else f"no remedy: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "right rows" if rows == expected else "other rows"


def _rows(path: Path) -> list[Any]:
    return [row for _, row in read_rows(path)]


def test_damaged_data_files_are_refused_or_read(tmp_path: Path) -> None:
    outcomes = campaign(tmp_path, 54)
    assert set(outcomes) <= set(OUTCOMES), outcomes


@pytest.mark.slow
def test_800_damaged_data_files(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    outcomes = campaign(tmp_path, 800, seed=1)
    failures = sum(count for outcome, count in outcomes.items() if outcome not in OUTCOMES)
    record = Outcome("damaged Arrow and Parquet files", str(dict(outcomes)), cases=800, failures=failures)
    record_property("outcome", record.as_dict())
    assert set(outcomes) <= set(OUTCOMES), outcomes
