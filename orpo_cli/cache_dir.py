"""Cache directory for files that can be created again: converted models, prepared pairs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """``$ORPO_CACHE``, else ``orpo-cli`` in ``$XDG_CACHE_HOME`` or ``~/.cache``. It may not exist yet."""
    if root := os.environ.get("ORPO_CACHE"):
        return Path(root).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orpo-cli"
