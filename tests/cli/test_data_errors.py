"""Data errors of `orpo data` and `orpo train`: exit code 4, with file and row, before any weights are loaded."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.json_lines import write_json_lines
from support.tiny import pairs, write_recipe

Orpo = Callable[..., Any]


def write_long_prompts(folder: Path) -> tuple[str, str]:
    rows = [{"prompt": f"{n} " + "word " * 5000, "chosen": " yes", "rejected": " no"} for n in range(3)]
    write_json_lines(folder / "x.jsonl", rows)
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


def write_damaged_arrow(folder: Path) -> tuple[str, str]:
    """Offsets that point past the end: read without validation, they end the process with a segmentation fault."""
    import pyarrow as pa

    batch = pa.record_batch({name: [f"{name} {n}" for n in range(50)] for name in ("prompt", "chosen", "rejected")})
    with pa.OSFile(str(folder / "x.arrow"), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    content = (folder / "x.arrow").read_bytes()
    offsets = b"".join(offset.to_bytes(4, "little") for offset in (8, 16, 24, 32))
    assert offsets in content
    (folder / "x.arrow").write_bytes(content.replace(offsets, b"\xff\xff\xff\x7f" * 4))
    return "x.arrow", "cannot be read after row 0"


def write_git_lfs_pointer(folder: Path) -> tuple[str, str]:
    (folder / "x.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n")
    return "x.parquet", "a git-lfs pointer"


def write_broken_line(folder: Path) -> tuple[str, str]:
    lines = [json.dumps(row) for row in pairs(1300)]
    lines[1233] = lines[1233][:-5]
    (folder / "x.jsonl").write_text("\n".join(lines))
    return "x.jsonl", "x.jsonl:1234"


@pytest.mark.parametrize("command", ["data", "train"])
@pytest.mark.parametrize(
    "write_bad_data",
    [
        write_long_prompts,
        write_empty_answers,
        write_truncated_gz,
        write_wrong_types,
        write_damaged_arrow,
        write_git_lfs_pointer,
        write_broken_line,
    ],
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


def test_wrong_columns_are_found_before_the_model_is_read(tmp_path: Path, orpo_here: Orpo) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "x.jsonl").write_text('{"question": "Why is it so?", "good": "So.", "bad": "No."}\n')
    done = orpo_here(
        "data", recipe, "--set", "dataset.train.path=x.jsonl", "--set", "model.model_name_or_path=./missing"
    )
    assert done.returncode == 4
    assert (
        "Write `columns: {prompt: question, chosen: good, rejected: bad}` below the path of the source" in done.stderr
    )
    assert "Known formats" not in done.stderr


def test_two_keys_of_one_column_and_rows_without_a_prompt_are_found_early(tmp_path: Path, orpo_here: Orpo) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "x.csv").write_text("said,heard\nIs it open?,Yes until six.\nIs it far?,No it is near.\n")
    change = ("--set", "dataset.train.path=x.csv", "--set")
    done = orpo_here("validate", recipe, *change, "dataset.train.columns={prompt: said, chosen: said, rejected: heard}")
    assert done.returncode == 2
    assert "dataset.train.columns.chosen: is the column said, which `prompt` is already." in done.stderr
    done = orpo_here("plan", recipe, *change, "dataset.train.columns={chosen: said, rejected: heard}")
    assert "warning: " in done.stderr
    assert "no row can be used: the prompt, or its last turn, has no text" in done.stderr


def test_columns_of_other_names_are_in_the_line_to_complete(tmp_path: Path, orpo_here: Orpo) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "x.csv").write_text("customer,our reply,robot_reply\nIs it open?,Yes until six.,I do not know.\n")
    done = orpo_here("data", recipe, "--set", "dataset.train.path=x.csv")
    assert done.returncode == 4
    assert "`columns: {prompt: customer, chosen: BETTER, rejected: WORSE}`" in done.stderr
    assert 'Which of "our reply" and "robot_reply" is better, only you know.' in done.stderr
    assert len(done.stderr.splitlines()) == 2
    shown = done.stderr.partition("`columns: ")[2].partition("`")[0]
    shown = shown.replace("BETTER", '"our reply"').replace("WORSE", "robot_reply")
    done = orpo_here("data", recipe, "--set", "dataset.train.path=x.csv", "--set", f"dataset.train.columns={shown}")
    assert "1 rows read, 1 kept" in done.stdout


@pytest.mark.parametrize(("name", "command"), [("x.jsonl", "sed -n 2p {}"), ("x.jsonl.gz", "gzip -dc {} | sed -n 2p")])
def test_the_remedy_prints_the_broken_line(name: str, command: str, tmp_path: Path, orpo_here: Orpo) -> None:
    recipe, broken = write_recipe(tmp_path), json.dumps(pairs(1)[0]) + '\n{"prompt": "broken\n'
    (tmp_path / name).write_bytes(gzip.compress(broken.encode()) if name.endswith("gz") else broken.encode())
    done = orpo_here("data", recipe, "--set", f"dataset.train.path={name}")
    shown = command.format(tmp_path / name)
    assert f"`{shown}` shows it" in done.stderr
    assert (
        subprocess.run(shown, shell=True, capture_output=True, text=True, check=True).stdout == '{"prompt": "broken\n'
    )
