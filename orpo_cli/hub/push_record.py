"""Push record (hub.json): the files that a run pushed, by repository and branch, with their digests.

The next push uses it to tell the files of this run from files that somebody else put into the repository.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from orpo_cli.card.base_license import BaseLicense
from orpo_cli.rundir import RunDir

MAX_GIT_FILE_BYTES = 10 * 2**20  # the hub stores larger files by their sha256


@dataclass
class PushedBranch:
    """Pushed files of one branch.

    ``files`` maps a path to the digests of every content that this run pushed there, ``parts`` maps it to the part of the run
    that it belongs to. ``commit`` is the commit of the last push that completed.
    """

    commit: str | None = None
    files: dict[str, list[str]] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)

    def is_from_this_run(self, path: str, digest: str) -> bool:
        """Whether this run pushed that content to ``path``."""
        return digest in self.files.get(path, ())


def git_blob_ids(content: bytes | Path) -> list[str]:
    """The git blob id of a file or its content, by which the hub identifies small files; empty for a large file."""
    from huggingface_hub.utils.sha import git_hash

    if isinstance(content, Path):
        if content.stat().st_size > MAX_GIT_FILE_BYTES:
            return []
        content = content.read_bytes()
    return [git_hash(content)]


def read_pushed_branch(rundir: RunDir, repo_id: str, revision: str) -> PushedBranch:
    """The record of a branch; empty if the run was never pushed to it."""
    return PushedBranch(**rundir.read_pushes().get("repositories", {}).get(repo_id, {}).get(revision, {}))


def write_pushed_branch(rundir: RunDir, repo_id: str, revision: str, branch: PushedBranch) -> None:
    """Write the record of a branch."""
    document = rundir.read_pushes()
    document.setdefault("repositories", {}).setdefault(repo_id, {})[revision] = asdict(branch)
    rundir.write_pushes(document)


def read_base_license(rundir: RunDir) -> BaseLicense | None:
    """The license of the base that the hub reported last; None if it was never requested."""
    try:
        return BaseLicense(**rundir.read_pushes()["base"])
    except (KeyError, TypeError):
        return None


def write_base_license(rundir: RunDir, base_license: BaseLicense | None) -> None:
    """Write the license of the base, for cards that are rendered without network access; None: it is unknown."""
    document = rundir.read_pushes()
    if base_license is not None and document.get("base") != base_license.__dict__:
        rundir.write_pushes({**document, "base": base_license.__dict__})
