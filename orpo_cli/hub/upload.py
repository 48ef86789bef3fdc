"""One commit with what is new, on top of what was looked at; and a comparison of what the hub then holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orpo_cli.card.run_contents import PushFile
from orpo_cli.errors import HubError, HubRefused, UsageError
from orpo_cli.hub.preflight import PushOptions, RepoState
from orpo_cli.hub.push_record import PushedBranch, git_blob_ids, read_pushed_branch, write_pushed_branch
from orpo_cli.hub.retry import RetryPolicy
from orpo_cli.rundir import RunDir

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

MAX_PULL_REQUESTS_CHECKED = 10
_ADAPTER_FILE, _MODEL_FILES = (
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
    options: PushOptions
    state: RepoState
    files: Sequence[PushFile]
    retry: RetryPolicy
    is_complete: bool

    def run(self, message: str) -> UploadResult:
        """Make what is missing of repository, branch and tag, and commit; raises HubError and what the client raises."""
        self.previous = read_pushed_branch(self.rundir, self.options.repo_id, self.options.revision)
        self._check_tag()
        self._create_repository_and_branch()
        uploaded = self.retry.call(f"pushing to {self.options.repo_id}", lambda: self._commit_changes(message))
        self._verify(uploaded.commit)
        if uploaded.pull_request is None:
            self._record(uploaded.commit, without=uploaded.deleted)
            self._create_tag(uploaded.commit)
        return uploaded

    @cached_property
    def digests(self) -> dict[str, list[str]]:
        """What the hub may call each file, by its path in the repository: sha256, and a git blob id where it is small."""
        return {
            path: [addition.upload_info.sha256.hex(), *git_blob_ids(Path(str(addition.path_or_fileobj)))]
            for path, addition in self.additions.items()
        }

    @cached_property
    def additions(self) -> dict[str, CommitOperationAdd]:
        """The client's own objects, which remember what has gone up already."""
        from huggingface_hub import CommitOperationAdd

        return {file.path_in_repo: CommitOperationAdd(file.path_in_repo, str(file.source)) for file in self.files}

    def _create_repository_and_branch(self) -> None:
        wish, visibility = self.options, "private" if self.options.private else "public"
        if not self.state.exists:
            self.retry.note(f"making the {visibility} repository {wish.repo_id}")
            self.retry.call(
                f"making {wish.repo_id}",
                lambda: self.api.create_repo(wish.repo_id, private=wish.private, exist_ok=True),
            )
        if wish.revision == "main" or wish.revision.startswith("refs/") or wish.revision in self.state.branches:
            return
        if wish.create_pr:
            raise UsageError(f"{wish.repo_id} has no branch {wish.revision} to open a pull request against.")
        self.retry.call(
            f"making the branch {wish.revision}",
            lambda: self.api.create_branch(wish.repo_id, branch=wish.revision, exist_ok=True),
        )

    def _commit_changes(self, message: str) -> UploadResult:
        """Look at the branch, and commit on top of what was seen there. Called again, it finds what has landed."""
        head, remote = self._list_files(self.options.revision)
        changed = [path for path in self.additions if remote.get(path) not in self.digests[path]]
        obsolete = self._obsolete_files(remote)
        if not changed and not obsolete:
            return UploadResult("unchanged", head)
        if self.options.create_pr and (request := self._find_same_pull_request()):
            return request
        self._check_overwrites(remote, changed)
        self._note_changes(remote, changed, obsolete)
        return self._create_commit(message, head, changed, obsolete)

    def _create_commit(self, message: str, head: str, changed: list[str], obsolete: list[str]) -> UploadResult:
        from huggingface_hub import CommitOperationDelete

        deletions = [CommitOperationDelete(path) for path in obsolete]
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *(self.additions[path] for path in changed),
            *deletions,
        ]
        self._record(self.previous.commit, former=True)  # should the answer be lost, what has landed is known as ours
        commit = self.api.create_commit(
            self.options.repo_id,
            operations,
            commit_message=message,
            revision=self.options.revision,
            parent_commit=head or None,
            create_pr=self.options.create_pr,
        )
        return UploadResult("pushed", commit.oid, tuple(obsolete), commit.pr_url)

    def _list_files(self, revision: str) -> tuple[str, dict[str, str]]:
        """(commit, path: sha256 of its content for LFS and Xet files, git blob id for the others)."""
        from huggingface_hub.hf_api import RepoFile

        head = self.api.model_info(self.options.repo_id, revision=revision).sha or ""
        tree = self.api.list_repo_tree(self.options.repo_id, recursive=True, revision=head)
        return head, {
            each.path: each.lfs.sha256 if each.lfs else each.blob_id for each in tree if isinstance(each, RepoFile)
        }

    def _check_overwrites(self, remote: dict[str, str], changed: Sequence[str]) -> None:
        """Raise HubRefused for files that somebody else put there, or changed since our last push."""
        if self.options.force:
            return
        foreign = [
            path for path in changed if path in remote and not self.previous.is_from_this_run(path, remote[path])
        ]
        if foreign:
            since = "changed there since this run was pushed" if self.previous.files else "there, and not from this run"
            raise HubRefused(
                f"{self.options.repo_id}, {self.options.revision}: {', '.join(foreign)}: {since}. Nothing was overwritten.",
                remedy="Look at the repository; then leave them out (--exclude), push to another branch (--revision) or as a "
                "pull request (--create-pr), or replace them (--force).",
            )
        self._check_single_model(remote)

    def check_foreign_weights(self) -> None:
        """Raise HubRefused where the branch holds weights that this run did not put there, so that none would be replaced."""
        if self.options.revision not in ("main", *self.state.branches):
            return
        self.previous = read_pushed_branch(self.rundir, self.options.repo_id, self.options.revision)
        _, remote = self.retry.call("looking at the repository", lambda: self._list_files(self.options.revision))
        weights = [path for path in remote if path.endswith((".safetensors", ".bin", ".gguf")) and "/" not in path]
        self._check_overwrites(remote, weights)

    def _check_single_model(self, remote: dict[str, str]) -> None:
        """Raise HubRefused for a model beside an adapter: transformers would load the adapter onto its base, and no merge."""
        ours = {file.path_in_repo for file in self.files}
        left = {path for path in remote if path not in ours and not self._is_obsolete(path, remote)}
        two = (_ADAPTER_FILE in left and "config.json" in ours) or (
            _ADAPTER_FILE in ours and any(mark in left for mark in _MODEL_FILES)
        )
        if two:
            raise HubRefused(
                f"{self.options.repo_id} would hold an adapter and a model side by side, and who loads it would get either.",
                remedy="Push both (--what adapter,merged puts the adapter into a folder), use another repository, or --force.",
            )

    def _is_obsolete(self, path: str, remote: dict[str, str]) -> bool:
        """Whether a file is ours, of a part that goes up now, and is in that part no more."""
        parts = {file.part for file in self.files}
        return (
            self.is_complete
            and path not in self.additions
            and self.previous.is_from_this_run(path, remote[path])
            and self.previous.parts.get(path) in parts
        )

    def _obsolete_files(self, remote: dict[str, str]) -> list[str]:
        return sorted(path for path in remote if self._is_obsolete(path, remote))

    def _note_changes(self, remote: dict[str, str], changed: Sequence[str], obsolete: Sequence[str]) -> None:
        note, ours = self.retry.note, set(self.additions)
        gone = [path for path in self.previous.files if path in ours and path not in remote]
        if gone and self.previous.commit:
            note(f"removed there since the last push, and pushed again: {', '.join(sorted(gone))}")
        if obsolete:
            note(f"pushed before and not in the run any more, so removed there: {', '.join(obsolete)}")
        if others := sorted(set(remote) - ours - set(obsolete) - {".gitattributes"}):
            note(f"{self.options.repo_id} also holds, untouched: {', '.join(others)}")
        size = sum(file.size for file in self.files if file.path_in_repo in changed)
        note(f"sending {len(changed)} of {len(ours)} files, {size / 1e6:,.1f} MB")

    def _find_same_pull_request(self) -> UploadResult | None:
        """An open pull request that holds all of our files already."""
        requests = self.api.get_repo_discussions(
            self.options.repo_id, discussion_type="pull_request", discussion_status="open"
        )
        for request, _ in zip(requests, range(MAX_PULL_REQUESTS_CHECKED), strict=False):
            head, remote = self._list_files(f"refs/pr/{request.num}")
            if all(remote.get(path) in self.digests[path] for path in self.additions):
                return UploadResult("unchanged", head, (), request.url)
        return None

    def _verify(self, commit: str) -> None:
        """Raise HubError where a file of the commit differs from the file here."""
        _, remote = self.retry.call("comparing", lambda: self._list_files(commit))
        wrong = [path for path in self.additions if remote.get(path) not in self.digests[path]]
        if wrong:
            raise HubError(
                f"{self.options.repo_id}: after the push these files are missing or differ: {', '.join(wrong)}",
                remedy="Push again; if it stays so, a .gitignore in the repository may leave them out.",
            )

    def _record(self, commit: str | None, *, former: bool = False, without: Sequence[str] = ()) -> None:
        """Keep in the run what is ours there: these files (``former``: or what they were), and those of earlier pushes."""
        before = {path: known for path, known in self.previous.files.items() if path not in without}
        here = {path: [*each, *(before.get(path, []) if former else [])] for path, each in self.digests.items()}
        files = {**before, **here}
        parts = {**self.previous.parts, **{file.path_in_repo: file.part for file in self.files}}
        parts = {path: part for path, part in parts.items() if path in files}
        write_pushed_branch(
            self.rundir, self.options.repo_id, self.options.revision, PushedBranch(commit, files, parts)
        )

    def _check_tag(self) -> None:
        """Raise HubRefused for a tag that stands somewhere already; that it is where it should be is seen after the push."""
        wish = self.options
        there = self.state.tags.get(wish.tag or "")
        if there is not None and there != self.previous.commit and not wish.force:
            raise HubRefused(
                f"{wish.repo_id} has the tag {wish.tag} already, at commit {there[:8]}.",
                remedy="Choose another tag, or move it with --force.",
            )

    def _create_tag(self, commit: str) -> None:
        tag, there = self.options.tag, self.state.tags.get(self.options.tag or "")
        if tag is None or there == commit:
            return
        if there is not None:
            if not self.options.force:
                raise HubRefused(
                    f"{self.options.repo_id} is pushed, and the tag {tag} still stands at commit {there[:8]}.",
                    remedy="Choose another tag, or move it with --force.",
                )
            self.retry.call("moving the tag", lambda: self.api.delete_tag(self.options.repo_id, tag=tag))
        self.retry.call(
            f"tagging {tag}",
            lambda: self.api.create_tag(self.options.repo_id, tag=tag, revision=commit, exist_ok=True),
        )
