"""``orpo`` in a forked process: a real process with its own streams and exit code, without the time to import the libraries."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Ended(NamedTuple):
    """Exit code (minus the signal that ended the process), streams and peak memory of a command."""

    code: int
    out: str
    err: str
    peak_bytes: int


def run_forked(folder: Path, environment: Mapping[str, str], *arguments: object, seconds: int = 300) -> Ended:
    """Run ``orpo ARGUMENTS`` in ``folder`` with this environment; SIGALRM ends it after ``seconds``."""
    import orpo_cli.training.make_trainer  # noqa: F401  the libraries, loaded once and not in each fork

    out, err = folder / ".stdout", folder / ".stderr"
    process = os.fork()
    if process == 0:
        code = 1
        try:
            code = _run(folder, environment, [str(each) for each in arguments], (out, err), seconds)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status, usage = os.wait4(process, 0)
    texts = [path.read_text(encoding="utf-8", errors="backslashreplace") for path in (out, err)]
    return Ended(os.waitstatus_to_exitcode(status), *texts, usage.ru_maxrss * 1024)


def _run(
    folder: Path,
    environment: Mapping[str, str],
    arguments: list[str],
    streams: tuple[Path, Path],
    seconds: int,
) -> int:
    import torch

    os.chdir(folder)
    for number, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = (open(number, "w", closefd=False, buffering=1) for number in (1, 2))  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)  # a fork has no copies of the other threads
    _read_environment_again()
    signal.alarm(seconds)
    sys.argv = ["orpo", *arguments]
    from orpo_cli.cli.main import main

    try:
        main()
    except SystemExit as ended:
        sys.stdout.flush()
        return ended.code if isinstance(ended.code, int) else 0
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        return 1
    return 0


def _read_environment_again() -> None:
    """huggingface_hub and datasets have read these variables when they were imported."""
    import datasets
    from huggingface_hub import constants

    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    constants.ENDPOINT = os.environ.get("HF_ENDPOINT", constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = os.environ.get("HF_HUB_OFFLINE") == "1"
    constants.HF_HUB_DISABLE_XET = True
    constants.HF_TOKEN_PATH = str(home / "token")
    constants.HF_HUB_CACHE = str(home / "hub")
    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE
