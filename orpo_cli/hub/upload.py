"""One commit with what is new, on top of what was looked at; and a comparison of what the hub then holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orpo_cli.card.run_contents import PushFile
from orpo_cli.errors import HubError, UsageError
from orpo_cli.hub.preflight import PushOptions, RepoState
from orpo_cli.hub.push_record import Pushed, git_blob, read_pushed, write_pushed
from orpo_cli.hub.retry import RetryPolicy
from orpo_cli.rundir import RunDir

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

PULL_REQUESTS_LOOKED_AT = 10
_ADAPTER_MARK, _MODEL_MARKS = (
    "adapter_config.json",
    ("config.json", "model.safetensors", "model.safetensors.index.json"),
)


@dataclass(frozen=True)
class UploadResult:
    """How an upload ended. ``pull_request`` is its address."""

    status: Literal["pushed", "unchanged"]
    commit: str
    deleted: tuple[str, ...] = ()
    pull_request: str | None = None


@dataclass
class Upload:
    """Files on their way to one branch. ``whole``: the files are all that belong there, so that old ones of ours go."""

    api: HfApi
    rundir: RunDir
    wish: PushOptions
    standing: RepoState
    files: Sequence[PushFile]
    patience: RetryPolicy
    whole: bool

    def run(self, message: str) -> UploadResult:
        """Make what is missing of repository, branch and tag, and commit; raises HubError and what the client raises."""
        self.known = read_pushed(self.rundir, self.wish.repo_id, self.wish.revision)
        self._check_tag()
        self._make_repository()
        landed = self.patience.call(f"pushing to {self.wish.repo_id}", lambda: self._look_and_commit(message))
        self._compare(landed.commit)
        if landed.pull_request is None:
            self._remember(landed.commit, without=landed.deleted)
            self._tag(landed.commit)
        return landed

    @cached_property
    def digests(self) -> dict[str, list[str]]:
        """What the hub may call each file, by its path in the repository: sha256, and a git blob id where it is small."""
        return {
            path: [addition.upload_info.sha256.hex(), *git_blob(Path(str(addition.path_or_fileobj)))]
            for path, addition in self.additions.items()
        }

    @cached_property
    def additions(self) -> dict[str, CommitOperationAdd]:
        """The client's own objects, which remember what has gone up already."""
        from huggingface_hub import CommitOperationAdd

        return {file.path_in_repo: CommitOperationAdd(file.path_in_repo, str(file.source)) for file in self.files}

    def _make_repository(self) -> None:
        wish, visibility = self.wish, "private" if self.wish.private else "public"
        if not self.standing.exists:
            self.patience.note(f"making the {visibility} repository {wish.repo_id}")
            self.patience.call(
                f"making {wish.repo_id}",
                lambda: self.api.create_repo(wish.repo_id, private=wish.private, exist_ok=True),
            )
        if wish.revision == "main" or wish.revision.startswith("refs/") or wish.revision in self.standing.branches:
            return
        if wish.create_pr:
            raise UsageError(f"{wish.repo_id} has no branch {wish.revision} to open a pull request against.")
        self.patience.call(
            f"making the branch {wish.revision}",
            lambda: self.api.create_branch(wish.repo_id, branch=wish.revision, exist_ok=True),
        )

    def _look_and_commit(self, message: str) -> UploadResult:
        """Look at the branch, and commit on top of what was seen there. Called again, it finds what has landed."""
        head, remote = self._look(self.wish.revision)
        changed = [path for path in self.additions if remote.get(path) not in self.digests[path]]
        stale = self._stale(remote)
        if not changed and not stale:
            return UploadResult("unchanged", head)
        if self.wish.create_pr and (request := self._same_request()):
            return request
        self._refuse_to_overwrite(remote, changed)
        self._say(remote, changed, stale)
        return self._commit(message, head, changed, stale)

    def _commit(self, message: str, head: str, changed: list[str], stale: list[str]) -> UploadResult:
        from huggingface_hub import CommitOperationDelete

        deletions = [CommitOperationDelete(path) for path in stale]
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *(self.additions[path] for path in changed),
            *deletions,
        ]
        self._remember(self.known.commit, former=True)  # should the answer be lost, what has landed is known as ours
        commit = self.api.create_commit(
            self.wish.repo_id,
            operations,
            commit_message=message,
            revision=self.wish.revision,
            parent_commit=head or None,
            create_pr=self.wish.create_pr,
        )
        return UploadResult("pushed", commit.oid, tuple(stale), commit.pr_url)

    def _look(self, revision: str) -> tuple[str, dict[str, str]]:
        """(commit, path: sha256 of its content for LFS and Xet files, git blob id for the others)."""
        from huggingface_hub.hf_api import RepoFile

        head = self.api.model_info(self.wish.repo_id, revision=revision).sha or ""
        tree = self.api.list_repo_tree(self.wish.repo_id, recursive=True, revision=head)
        return head, {
            each.path: each.lfs.sha256 if each.lfs else each.blob_id for each in tree if isinstance(each, RepoFile)
        }

    def _refuse_to_overwrite(self, remote: dict[str, str], changed: Sequence[str]) -> None:
        """Raise HubError for files that somebody else put there, or changed since our last push."""
        if self.wish.force:
            return
        foreign = [path for path in changed if path in remote and not self.known.is_ours(path, remote[path])]
        if foreign:
            since = "changed there since this run was pushed" if self.known.files else "there, and not from this run"
            raise HubError(
                f"{self.wish.repo_id}, {self.wish.revision}: {', '.join(foreign)}: {since}. Nothing was overwritten.",
                remedy="Look at the repository; then leave them out (--exclude), push to another branch (--revision) or as a "
                "pull request (--create-pr), or replace them (--force).",
            )
        self._refuse_two_at_the_top(remote)

    def refuse_weights_of_others(self) -> None:
        """Raise HubError where the branch holds weights that this run did not put there, so that none would be replaced."""
        if self.wish.revision not in ("main", *self.standing.branches):
            return
        self.known = read_pushed(self.rundir, self.wish.repo_id, self.wish.revision)
        _, remote = self.patience.call("looking at the repository", lambda: self._look(self.wish.revision))
        weights = [path for path in remote if path.endswith((".safetensors", ".bin", ".gguf")) and "/" not in path]
        self._refuse_to_overwrite(remote, weights)

    def _refuse_two_at_the_top(self, remote: dict[str, str]) -> None:
        """Raise HubError for a model beside an adapter: transformers would load the adapter onto its base, and no merge."""
        ours = {file.path_in_repo for file in self.files}
        left = {path for path in remote if path not in ours and not self._is_stale(path, remote)}
        two = (_ADAPTER_MARK in left and "config.json" in ours) or (
            _ADAPTER_MARK in ours and any(mark in left for mark in _MODEL_MARKS)
        )
        if two:
            raise HubError(
                f"{self.wish.repo_id} would hold an adapter and a model side by side, and who loads it would get either.",
                remedy="Push both (--what adapter,merged puts the adapter into a folder), use another repository, or --force.",
            )

    def _is_stale(self, path: str, remote: dict[str, str]) -> bool:
        """Whether a file is ours, of a part that goes up now, and is in that part no more."""
        parts = {file.part for file in self.files}
        return (
            self.whole
            and path not in self.additions
            and self.known.is_ours(path, remote[path])
            and self.known.parts.get(path) in parts
        )

    def _stale(self, remote: dict[str, str]) -> list[str]:
        return sorted(path for path in remote if self._is_stale(path, remote))

    def _say(self, remote: dict[str, str], changed: Sequence[str], stale: Sequence[str]) -> None:
        note, ours = self.patience.note, set(self.additions)
        gone = [path for path in self.known.files if path in ours and path not in remote]
        if gone and self.known.commit:
            note(f"removed there since the last push, and pushed again: {', '.join(sorted(gone))}")
        if stale:
            note(f"pushed before and not in the run any more, so removed there: {', '.join(stale)}")
        if others := sorted(set(remote) - ours - set(stale) - {".gitattributes"}):
            note(f"{self.wish.repo_id} also holds, untouched: {', '.join(others)}")
        size = sum(file.size for file in self.files if file.path_in_repo in changed)
        note(f"sending {len(changed)} of {len(ours)} files, {size / 1e6:,.1f} MB")

    def _same_request(self) -> UploadResult | None:
        """An open pull request that holds all of our files already."""
        requests = self.api.get_repo_discussions(
            self.wish.repo_id, discussion_type="pull_request", discussion_status="open"
        )
        for request, _ in zip(requests, range(PULL_REQUESTS_LOOKED_AT), strict=False):
            head, remote = self._look(f"refs/pr/{request.num}")
            if all(remote.get(path) in self.digests[path] for path in self.additions):
                return UploadResult("unchanged", head, (), request.url)
        return None

    def _compare(self, commit: str) -> None:
        """Every file is there with the bytes it has here, or HubError."""
        _, remote = self.patience.call("comparing", lambda: self._look(commit))
        wrong = [path for path in self.additions if remote.get(path) not in self.digests[path]]
        if wrong:
            raise HubError(
                f"{self.wish.repo_id}: after the push these files are missing or differ: {', '.join(wrong)}",
                remedy="Push again; if it stays so, a .gitignore in the repository may leave them out.",
            )

    def _remember(self, commit: str | None, *, former: bool = False, without: Sequence[str] = ()) -> None:
        """Keep in the run what is ours there: these files (``former``: or what they were), and those of earlier pushes."""
        before = {path: known for path, known in self.known.files.items() if path not in without}
        here = {path: [*each, *(before.get(path, []) if former else [])] for path, each in self.digests.items()}
        files = {**before, **here}
        parts = {**self.known.parts, **{file.path_in_repo: file.part for file in self.files}}
        parts = {path: part for path, part in parts.items() if path in files}
        write_pushed(self.rundir, self.wish.repo_id, self.wish.revision, Pushed(commit, files, parts))

    def _check_tag(self) -> None:
        """Raise HubError for a tag that stands somewhere already; that it is where it should be is seen after the push."""
        wish = self.wish
        there = self.standing.tags.get(wish.tag or "")
        if there is not None and there != self.known.commit and not wish.force:
            raise HubError(
                f"{wish.repo_id} has the tag {wish.tag} already, at commit {there[:8]}.",
                remedy="Choose another tag, or move it with --force.",
            )

    def _tag(self, commit: str) -> None:
        tag, there = self.wish.tag, self.standing.tags.get(self.wish.tag or "")
        if tag is None or there == commit:
            return
        if there is not None:
            if not self.wish.force:
                raise HubError(
                    f"{self.wish.repo_id} is pushed, and the tag {tag} still stands at commit {there[:8]}.",
                    remedy="Choose another tag, or move it with --force.",
                )
            self.patience.call("moving the tag", lambda: self.api.delete_tag(self.wish.repo_id, tag=tag))
        self.patience.call(
            f"tagging {tag}",
            lambda: self.api.create_tag(self.wish.repo_id, tag=tag, revision=commit, exist_ok=True),
        )
