"""hub.json: what was pushed from a run, so that the next push knows which files in the repository are its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from orpo_cli.card.base_license import BaseLicense
from orpo_cli.rundir import RunDir

MAX_GIT_FILE_BYTES = 10 * 2**20  # bytes; the hub keeps larger files by their sha256 alone


@dataclass
class PushedBranch:
    """One branch of one repository. ``files`` maps a path to the digests that content of ours has had there.

    ``parts`` maps it to what it belongs to. ``commit`` is that of the last push that ended.
    """

    commit: str | None = None
    files: dict[str, list[str]] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)

    def is_from_this_run(self, path: str, digest: str) -> bool:
        """Whether what the repository has at ``path`` came from this run."""
        return digest in self.files.get(path, ())


def git_blob_ids(path: Path) -> list[str]:
    """The id of the content of ``path`` as a git blob, which the hub gives for small files; none for a large one."""
    from huggingface_hub.utils.sha import git_hash

    return [git_hash(path.read_bytes())] if path.stat().st_size <= MAX_GIT_FILE_BYTES else []


def read_pushed_branch(rundir: RunDir, repo_id: str, revision: str) -> PushedBranch:
    """What was pushed to that branch; nothing where nothing was."""
    entry = rundir.read_pushes().get("repositories", {}).get(repo_id, {}).get(revision, {})
    return PushedBranch(entry.get("commit"), dict(entry.get("files", {})), dict(entry.get("parts", {})))


def write_pushed_branch(rundir: RunDir, repo_id: str, revision: str, branch: PushedBranch) -> None:
    """Keep what was pushed."""
    document = rundir.read_pushes()
    branches = document.setdefault("repositories", {}).setdefault(repo_id, {})
    branches[revision] = {"commit": branch.commit, "files": branch.files, "parts": branch.parts}
    rundir.write_pushes(document)


def read_base_license(rundir: RunDir) -> BaseLicense | None:
    """What the hub said of the base's licence when it was asked last; None where it was not."""
    try:
        return BaseLicense(**rundir.read_pushes()["base"])
    except (KeyError, TypeError):
        return None


def write_base_license(rundir: RunDir, base_license: BaseLicense) -> None:
    """Keep them, for cards that are made without the hub."""
    document = rundir.read_pushes()
    if document.get("base") != base_license.__dict__:
        rundir.write_pushes({**document, "base": base_license.__dict__})
