"""Data errors of `orpo data` and `orpo train`: exit code 4, with file and row, before any weights are loaded."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.tiny import pairs, write_recipe

Orpo = Callable[..., Any]


def write_long_prompts(folder: Path) -> tuple[str, str]:
    rows = [{"prompt": f"{n} " + "word " * 5000, "chosen": " yes", "rejected": " no"} for n in range(3)]
    (folder / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "x.jsonl", "x.jsonl:1"


def write_empty_answers(folder: Path) -> tuple[str, str]:
    (folder / "x.jsonl").write_text("".join(json.dumps({**row, "chosen": []}) + "\n" for row in pairs(3)))
    return "x.jsonl", "x.jsonl:1"


def write_truncated_gz(folder: Path) -> tuple[str, str]:
    packed = gzip.compress("".join(json.dumps(row) + "\n" for row in pairs(900)).encode())
    (folder / "x.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    return "x.jsonl.gz", "after row"


def write_wrong_types(folder: Path) -> tuple[str, str]:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(
        pa.table({"prompt": ["a", "b"], "chosen": [1, 2], "rejected": [3.5, 4.5]}), folder / "x.parquet"
    )
    return "x.parquet", "chosen (a number)"


def write_broken_line(folder: Path) -> tuple[str, str]:
    lines = [json.dumps(row) for row in pairs(1300)]
    lines[1233] = lines[1233][:-5]
    (folder / "x.jsonl").write_text("\n".join(lines))
    return "x.jsonl", "x.jsonl:1234"


@pytest.mark.parametrize("command", ["data", "train"])
@pytest.mark.parametrize(
    "write_bad_data",
    [write_long_prompts, write_empty_answers, write_truncated_gz, write_wrong_types, write_broken_line],
)
def test_bad_data_exits_4_with_the_row_and_leaves_no_run(
    write_bad_data: Callable[[Path], tuple[str, str]], command: str, tmp_path: Path, orpo_here: Orpo
) -> None:
    recipe = write_recipe(tmp_path)
    file, words = write_bad_data(tmp_path)
    settings = ["dataset.truncation_mode=drop", f"dataset.train.path={file}"]
    done = orpo_here(command, recipe, *(part for setting in settings for part in ("--set", setting)))
    assert done.returncode == 4, done.stderr
    assert file in done.stderr
    assert words in done.stderr
    assert "→" in done.stderr  # the remedy
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
