"""``orpo`` in a forked process with its own working directory and environment, without the time to import the libraries."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from support.forked_command import ForkedCommand


class Ended(NamedTuple):
    """Exit code (minus the signal that ended the process), streams and peak memory of a command."""

    code: int
    out: str
    err: str
    peak_bytes: int


def run_forked(folder: Path, environment: Mapping[str, str], *arguments: object, seconds: float = 300) -> Ended:
    """Run ``orpo ARGUMENTS`` in ``folder`` with this environment; it fails where the command takes longer than ``seconds``."""
    import orpo_cli.training.make_trainer  # noqa: F401  the libraries, loaded once and not in each fork

    def surround() -> None:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment, TOKENIZERS_PARALLELISM="false")
        _read_environment_again()

    with TemporaryDirectory() as streams:
        command = ForkedCommand(Path(streams), [str(each) for each in arguments], before=surround)
        code = command.wait(seconds)
        return Ended(code, command.stdout, command.stderr, command.peak_bytes)


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
