"""Repository state of the loopback hub: files, commits, branches, tags and pull requests of one repository."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

LFS_SUFFIXES = (".safetensors", ".bin", ".gguf", ".pt")
LFS_SIZE = 10_000_000


@dataclass
class StoredFile:
    """File of a branch: its content, and whether it was uploaded through LFS."""

    content: bytes
    lfs: bool

    @property
    def blob_id(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass
class HubRepository:
    private: bool
    branches: dict[str, dict[str, StoredFile]] = field(default_factory=lambda: {"main": {}})
    snapshots: dict[str, dict[str, StoredFile]] = field(default_factory=dict)  # by commit id
    heads: dict[str, str] = field(default_factory=dict)  # branch: commit id
    messages: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)  # name: commit id
    pull_requests: dict[int, str] = field(default_factory=dict)  # open pull requests: number, title
    gated: str | bool = False
    card_data: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self.add_commit("main", self.branches["main"])

    def add_commit(self, branch: str, files: dict[str, StoredFile]) -> str:
        """Commit ``files`` as the complete content of ``branch``. Returns the commit id."""
        content = repr((branch, len(self.snapshots), sorted((path, each.blob_id) for path, each in files.items())))
        commit = hashlib.sha1(content.encode()).hexdigest()
        self.branches[branch], self.snapshots[commit], self.heads[branch] = files, files, commit
        return commit

    def files_at(self, revision: str) -> dict[str, StoredFile] | None:
        revision = self.tags.get(revision, revision)
        return self.snapshots[revision] if revision in self.snapshots else self.branches.get(revision)

    def head(self, revision: str) -> str:
        revision = self.tags.get(revision, revision)
        return revision if revision in self.snapshots else self.heads[revision]

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return {path: stored.content for path, stored in self.branches[revision].items()}
