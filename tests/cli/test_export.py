"""`orpo export` from its arguments to its output."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.tiny_export import gguf_converter, make_exportable_run  # noqa: F401

from orpo_cli.rundir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_exportable_run(tmp_path / "run")


def test_export_prints_the_folder_and_a_repeated_one_reports_it_as_done(run, orpo_here):
    first = orpo_here("export", run.root)
    folder = run.export / "safetensors"
    assert (first.returncode, first.stdout.strip()) == (0, str(folder))
    for name in ("config", "end tokens", "chat template", "tokenizer round trip", "safetensors only", "logits"):
        assert f"ok  {name}: " in first.stderr
    assert [item["passed"] for item in json.loads((folder / "export.json").read_text())["checklist"]] == [True] * 9
    second = orpo_here("export", run.root)
    assert (second.returncode, second.stdout.strip()) == (0, str(folder))
    assert "already exported and verified" in second.stderr


def test_json_is_the_only_output_with_quiet(run, tmp_path, orpo):
    done = orpo("export", run.root, "-o", tmp_path / "out", "--dtype", "bfloat16", "--json", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["status"] == "exported"
    (each,) = document["exports"]
    assert each == each | {"format": "safetensors", "verified": True, "output": str(tmp_path / "out")}
    assert each["options"]["dtype"] == "bfloat16"


def test_errors_have_their_exit_codes(run, tmp_path, orpo_here):
    bare = shutil.copytree(run.adapter, tmp_path / "bare")  # in its place it names the run
    assert orpo_here("export", bare).returncode == 2
    assert orpo_here("export", run.root, "--format", "onnx").returncode == 2
    (tmp_path / "file").write_text("a file")
    refused = orpo_here("export", run.root, "-o", tmp_path / "file" / "out", "--json")
    assert (refused.returncode, json.loads(refused.stdout)["exit_code"]) == (3, 3)


def test_a_run_is_exported_to_gguf_in_one_command(run, gguf_converter, orpo_here):  # noqa: F811
    done = orpo_here("export", run.root, "--format", "gguf", "--gguf-type", "q8_0", "--json")
    assert done.returncode == 0, done.stderr
    (each,) = json.loads(done.stdout)["exports"]
    assert each["files"].keys() == {"run-q8_0.gguf", "Modelfile"}
    assert each["output"] == str(run.export / "gguf")
    assert {item["name"]: item["passed"] for item in each["checklist"]}["logits"] is True


# The exports are forked from a process that has imported the libraries, so that kills hit the export and not the imports.
KILL_PROGRAM = """
import os, random, shutil, signal, sys, time
from pathlib import Path
import bitsandbytes, torch, transformers
from orpo_cli.exporting.export import export
from orpo_cli.exporting.export_request import ExportRequest
from orpo_cli.exporting.export_record import ExportRecord

run, kind = Path(sys.argv[1]), sys.argv[2]
target = run / "export" / kind

def begin():
    child = os.fork()
    if child == 0:
        export(ExportRequest(run, formats=[kind]))
        os._exit(0)
    return child

began = time.monotonic()
assert os.waitpid(begin(), 0)[1] == 0
seconds, draw, absent, complete = time.monotonic() - began, random.Random(0), 0, 0
for _ in range(20):
    shutil.rmtree(target, ignore_errors=True)
    child = begin()
    time.sleep(draw.uniform(0, 1.1 * seconds))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if not target.exists():
        absent += 1
        continue
    record = ExportRecord.read(target)
    assert record is not None and record.verified and record.is_complete(target)
    complete += 1
shutil.rmtree(target, ignore_errors=True)
assert os.waitpid(begin(), 0)[1] == 0
print(absent, complete, *sorted(path.name for path in target.parent.iterdir()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["safetensors", "gguf"])
def test_an_export_killed_at_any_moment_is_absent_or_complete(run, kind, gguf_converter):  # noqa: F811
    """With SIGKILL: a folder at the target has passed its checks, and the next export works and leaves no other file."""
    done = subprocess.run(
        [sys.executable, "-c", KILL_PROGRAM, str(run.root), kind],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    absent, complete, *left = done.stdout.split()
    assert int(absent) + int(complete) == 20
    assert int(absent) > 0
    assert left == [kind]
