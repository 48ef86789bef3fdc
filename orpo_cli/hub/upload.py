"""Upload to one branch: a commit of the changed files on top of a known parent, then a comparison of all digests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from orpo_cli.card.run_contents import PushFile
from orpo_cli.digests import file_sha256
from orpo_cli.errors import HubError, HubRefused, UsageError
from orpo_cli.hub.preflight import PushOptions, RepoState
from orpo_cli.hub.push_record import PushedBranch, git_blob_ids, read_pushed_branch, write_pushed_branch
from orpo_cli.hub.retry import RetryPolicy
from orpo_cli.rundir import RunDir

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

MAX_PULL_REQUESTS_CHECKED = 10
_ADAPTER_FILE = "adapter_config.json"
_MODEL_FILES = ("config.json", "model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class UploadResult:
    """Result of an upload: the commit, the files deleted from the branch, and the URL of the pull request."""

    status: Literal["pushed", "unchanged"]
    commit: str
    deleted: tuple[str, ...] = ()
    pull_request: str | None = None


@dataclass
class Upload:
    """Upload of ``files`` to one branch.

    ``is_complete``: the files are all files of their parts, so that files which this run pushed earlier and which are not
    among them are deleted from the branch.
    """

    api: HfApi
    rundir: RunDir
    options: PushOptions
    state: RepoState
    files: Sequence[PushFile]
    retry: RetryPolicy
    is_complete: bool

    def run(self, message: str) -> UploadResult:
        """Create the repository, the branch and the tag where they are missing, and commit the changed files."""
        self.previous = read_pushed_branch(self.rundir, self.options.repo_id, self.options.revision)
        self._check_tag()
        self._create_repository_and_branch()
        uploaded = self.retry.call(f"pushing to {self.options.repo_id}", lambda: self._commit_changes(message))
        self._verify(uploaded.commit)
        if uploaded.pull_request is None:
            self._record(uploaded.commit, without=uploaded.deleted)
            self._create_tag(uploaded.commit)
        return uploaded

    def check(self) -> None:
        """Raise the errors that ``run`` would raise before it sends a file. Nothing is sent or written."""
        self.previous = read_pushed_branch(self.rundir, self.options.repo_id, self.options.revision)
        self._check_tag()
        if not self._has_branch():
            if self.options.create_pr:
                raise self._no_branch_error()
            return
        _, remote = self.retry.call("reading the repository", lambda: self._list_files(self.options.revision))
        self._check_overwrites(remote, [file.path_in_repo for file in self.files if _differs(file, remote)])

    @cached_property
    def paths(self) -> frozenset[str]:
        """The paths of the files in the repository."""
        return frozenset(file.path_in_repo for file in self.files)

    @cached_property
    def digests(self) -> dict[str, list[str]]:
        """The digests by which the hub may identify each file: its sha256, and its git blob id if it is small."""
        return {
            file.path_in_repo: [
                self.additions[file.path_in_repo].upload_info.sha256.hex(),
                *git_blob_ids(file.content or file.source),
            ]
            for file in self.files
        }

    @cached_property
    def additions(self) -> dict[str, CommitOperationAdd]:
        """The operations of huggingface_hub; they store what was uploaded already, so that a retry sends nothing twice."""
        from huggingface_hub import CommitOperationAdd

        return {
            file.path_in_repo: CommitOperationAdd(file.path_in_repo, file.content or str(file.source))
            for file in self.files
        }

    def _create_repository_and_branch(self) -> None:
        options, revision = self.options, self.options.revision
        if not self.state.exists:
            visibility = "private" if options.private else "public"
            self.retry.note(f"creating the {visibility} repository {options.repo_id}")
            self.retry.call(
                f"creating {options.repo_id}",
                lambda: self.api.create_repo(options.repo_id, private=options.private, exist_ok=True),
            )
        if revision == "main" or self._has_branch():
            return
        if options.create_pr:
            raise self._no_branch_error()
        self.retry.call(
            f"creating the branch {revision}",
            lambda: self.api.create_branch(options.repo_id, branch=revision, exist_ok=True),
        )

    def _has_branch(self) -> bool:
        """Whether the branch was there before this upload."""
        return self.options.revision.startswith("refs/") or self.options.revision in self.state.branches

    def _no_branch_error(self) -> UsageError:
        return UsageError(
            f"{self.options.repo_id} has no branch {self.options.revision} to open a pull request against.",
            remedy="Check --revision.",
        )

    def _commit_changes(self, message: str) -> UploadResult:
        """Read the branch and commit on top of it. A retry finds the files of a commit whose response was lost."""
        head, remote = self._list_files(self.options.revision)
        changed = [path for path in self.additions if remote.get(path) not in self.digests[path]]
        obsolete = sorted(path for path in remote if self._is_obsolete(path, remote))
        if not changed and not obsolete:
            return UploadResult("unchanged", head)
        if self.options.create_pr and (request := self._find_same_pull_request()):
            return request
        self._check_overwrites(remote, changed)
        self._note_changes(remote, changed, obsolete)
        return self._create_commit(message, head, changed, obsolete)

    def _create_commit(self, message: str, head: str, changed: list[str], obsolete: list[str]) -> UploadResult:
        from huggingface_hub import CommitOperationDelete

        operations: list[CommitOperationAdd | CommitOperationDelete] = [self.additions[path] for path in changed]
        operations += [CommitOperationDelete(path) for path in obsolete]
        self._record(self.previous.commit, keep_old_digests=True)  # before the commit: its response may be lost
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
        """(commit, digest of each file by path): the sha256 of LFS and Xet files, the git blob id of others."""
        from huggingface_hub.hf_api import RepoFile

        head = self.api.model_info(self.options.repo_id, revision=revision).sha or ""
        tree = self.api.list_repo_tree(self.options.repo_id, recursive=True, revision=head)
        return head, {
            each.path: each.lfs.sha256 if each.lfs else each.blob_id for each in tree if isinstance(each, RepoFile)
        }

    def _check_overwrites(self, remote: dict[str, str], changed: Sequence[str]) -> None:
        """Raise HubRefused for changed files that this run did not push, or that somebody changed since."""
        if self.options.force:
            return
        foreign = [
            path for path in changed if path in remote and not self.previous.is_from_this_run(path, remote[path])
        ]
        if foreign:
            reason = (
                "changed there since this run was pushed" if self.previous.files else "there, and not from this run"
            )
            raise HubRefused(
                f"{self.options.repo_id}, {self.options.revision}: {', '.join(foreign)}: {reason}. Nothing was overwritten.",
                remedy="Check the repository; then leave them out (--exclude), push to another branch (--revision) or as a "
                "pull request (--create-pr), or replace them (--force).",
            )
        self._check_single_model(remote)

    def check_foreign_weights(self) -> None:
        """Raise HubRefused if the branch has weights that this run did not push, before a run that would replace them."""
        if self.options.revision not in ("main", *self.state.branches):
            return
        self.previous = read_pushed_branch(self.rundir, self.options.repo_id, self.options.revision)
        _, remote = self.retry.call("reading the repository", lambda: self._list_files(self.options.revision))
        weights = [path for path in remote if path.endswith((".safetensors", ".bin", ".gguf")) and "/" not in path]
        self._check_overwrites(remote, weights)

    def _check_single_model(self, remote: dict[str, str]) -> None:
        """Raise HubRefused for a model and an adapter in one folder: transformers would load the adapter on its base."""
        pushed = self.paths
        remaining = {path for path in remote if path not in pushed and not self._is_obsolete(path, remote)}
        if (_ADAPTER_FILE in remaining and "config.json" in pushed) or (
            _ADAPTER_FILE in pushed and any(name in remaining for name in _MODEL_FILES)
        ):
            raise HubRefused(
                f"{self.options.repo_id} would contain an adapter and a model side by side: a program that loads it gets one or the other.",
                remedy="Push both (--what adapter,merged puts the adapter into a folder), use another repository, or --force.",
            )

    def _is_obsolete(self, path: str, remote: dict[str, str]) -> bool:
        """Whether this run pushed a file for one of these parts, and the part does not contain it any more."""
        parts = {file.part for file in self.files}
        return (
            self.is_complete
            and path not in self.paths
            and self.previous.is_from_this_run(path, remote[path])
            and self.previous.parts.get(path) in parts
        )

    def _note_changes(self, remote: dict[str, str], changed: Sequence[str], obsolete: Sequence[str]) -> None:
        note, pushed = self.retry.note, set(self.additions)
        removed = [path for path in self.previous.files if path in pushed and path not in remote]
        if removed and self.previous.commit:
            note(f"removed there since the last push, and pushed again: {', '.join(sorted(removed))}")
        if obsolete:
            note(f"pushed before and no longer in the run, so removed there: {', '.join(obsolete)}")
        if others := sorted(set(remote) - pushed - set(obsolete) - {".gitattributes"}):
            note(f"{self.options.repo_id} also contains, unchanged: {', '.join(others)}")
        size = sum(file.size for file in self.files if file.path_in_repo in changed)
        note(f"sending {len(changed)} of {len(pushed)} files, {size / 1e6:,.1f} MB")

    def _find_same_pull_request(self) -> UploadResult | None:
        """An open pull request that has all of the files already."""
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
        _, remote = self.retry.call("comparing the files", lambda: self._list_files(commit))
        different = [path for path in self.additions if remote.get(path) not in self.digests[path]]
        if different:
            raise HubError(
                f"{self.options.repo_id}: after the push these files are missing or differ: {', '.join(different)}",
                remedy="Push again; if they still differ, a .gitignore in the repository may exclude them.",
            )

    def _record(self, commit: str | None, *, keep_old_digests: bool = False, without: Sequence[str] = ()) -> None:
        """Write to hub.json that these files are from this run, in addition to those of earlier pushes.

        ``keep_old_digests`` also keeps the digests of earlier contents, for a commit that may fail.
        """
        earlier = {path: digests for path, digests in self.previous.files.items() if path not in without}
        files = earlier | {
            path: [*digests, *(earlier.get(path, []) if keep_old_digests else [])]
            for path, digests in self.digests.items()
        }
        parts = {**self.previous.parts, **{file.path_in_repo: file.part for file in self.files}}
        parts = {path: part for path, part in parts.items() if path in files}
        write_pushed_branch(
            self.rundir, self.options.repo_id, self.options.revision, PushedBranch(commit, files, parts)
        )

    def _check_tag(self) -> None:
        """Raise HubRefused for a tag that exists at another commit than that of the last push."""
        options = self.options
        tagged = self.state.tags.get(options.tag or "")
        if tagged is not None and tagged != self.previous.commit and not options.force:
            raise HubRefused(
                f"{options.repo_id} already has the tag {options.tag}, at commit {tagged[:8]}.",
                remedy="Choose another tag, or move it with --force.",
            )

    def _create_tag(self, commit: str) -> None:
        tag, tagged = self.options.tag, self.state.tags.get(self.options.tag or "")
        if tag is None or tagged == commit:
            return
        if tagged is not None:
            if not self.options.force:
                raise HubRefused(
                    f"{self.options.repo_id} is pushed, but the tag {tag} is still at commit {tagged[:8]}.",
                    remedy="Choose another tag, or move it with --force.",
                )
            self.retry.call("moving the tag", lambda: self.api.delete_tag(self.options.repo_id, tag=tag))
        self.retry.call(
            f"tagging {tag}",
            lambda: self.api.create_tag(self.options.repo_id, tag=tag, revision=commit, exist_ok=True),
        )


def _differs(file: PushFile, remote: dict[str, str]) -> bool:
    """Whether the repository has another content of the file. The card is written during the push, so it always differs."""
    digest = remote.get(file.path_in_repo)
    if digest is None or file.part == "card":
        return digest is not None
    sha256 = hashlib.sha256(file.content).hexdigest() if file.content else file_sha256(file.source)
    return digest != sha256 and digest not in git_blob_ids(file.content or file.source)
