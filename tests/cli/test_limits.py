"""Limits of the machine and unusual surroundings: a command works, or ends with a message and exit code 3."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.tiny import write_recipe

ORPO = f"{sys.executable} -m orpo_cli"


def run(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        ["sh", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "mkdir gone; cd gone; rmdir ../gone; {orpo} plan {folder}/recipe.yaml",
            "the current directory has been removed",
        ),
        ("ulimit -v 700000; {orpo} data recipe.yaml", "out of memory"),
        ("ulimit -f 2; {orpo} schema --output schema.json", "exceeds the maximum file size"),
    ],
)
def test_a_limit_ends_a_command_with_a_message(tmp_path: Path, script: str, message: str) -> None:
    write_recipe(tmp_path)
    done = run(script.format(orpo=ORPO, folder=tmp_path), tmp_path)
    assert done.returncode == 3, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="root has no limit of threads")
def test_a_limit_of_threads_is_explained(tmp_path: Path) -> None:
    """Also one that Rust code meets, whose panic is no Exception."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from orpo_cli.cli import main, recipes\n"
        "def start(): import threading; [threading.Thread(target=threading.Event().wait, daemon=True).start() for _ in range(9)]\n"
        "recipes.shipped_recipes = start\n"
        "sys.argv = ['orpo', 'recipes']\n"
        "main.main()\n"
    )
    tmp_path.chmod(0o755)
    user = f"setpriv --reuid={20000 + os.getpid() % 9999} --clear-groups"
    if run(f"{user} {sys.executable} -c pass", tmp_path).returncode:
        pytest.skip("other users cannot start this Python, whose folder they cannot read")
    done = run(f"exec prlimit --nproc=4 {user} {sys.executable} - < {program}", tmp_path, HOME="/nonexistent")
    assert done.returncode == 3, done.stderr
    assert "no more threads or processes can be started" in done.stderr


def test_the_c_locale_reads_and_writes_every_name_and_text(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "dönné").mkdir()
    pair = {"prompt": "Où est la gare ?", "chosen": "Là-bas →", "rejected": "Ähm …"}
    (tmp_path / "dönné" / "träin.jsonl").write_text(json.dumps(pair, ensure_ascii=False) + "\n", encoding="utf-8")
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    data = "--set dataset.train.path=dönné/träin.jsonl --set dataset.eval=null --show 1"
    done = run(f"{ORPO} data {recipe} {data} --html päge.html", tmp_path, **locale)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "träin.jsonl" in (tmp_path / "päge.html").read_text(encoding="utf-8")
