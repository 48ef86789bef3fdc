"""Messages and progress bars of the libraries: which of them a user of orpo-cli does not need to see."""

from __future__ import annotations

import logging
import os
import sys
import warnings

# "Failed to load CPU gemm_4bit_forward": an optional kernel is missing, and the user need not act on it.
OPTIONAL_KERNELS = logging.getLogger("bitsandbytes.backends.cpu.ops")


def silence_libraries() -> None:
    """Switch off progress bars and messages of the libraries, unless the user has set these variables.

    The libraries read the variables when they are imported.
    """
    quiet = {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "DATASETS_VERBOSITY": "error",  # it warns of its cached copies, which the notes of `orpo` name
        "BITSANDBYTES_NOWELCOME": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "PYDANTIC_DISABLE_PLUGINS": "__all__",  # looking for plugins reads the metadata of every installed package
    }
    if not sys.stderr.isatty() or {"--quiet", "-q"} & set(sys.argv[1:]):
        quiet |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        ignore_developer_warnings()
    OPTIONAL_KERNELS.setLevel(logging.ERROR)


def ignore_developer_warnings() -> None:
    """Ignore the warnings of the libraries that are meant for developers who call them."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|transformers|peft|trl|bitsandbytes)\b")
