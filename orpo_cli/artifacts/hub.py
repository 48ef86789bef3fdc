"""A run's adapter, merged model or trained model onto the hub, with its card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from orpo_cli.artifacts.card import What, fresh_card, hub_id
from orpo_cli.artifacts.hub_errors import explained
from orpo_cli.artifacts.merge_record import MergeRecord, adapter_digests
from orpo_cli.artifacts.redaction import redact_log
from orpo_cli.errors import HubError, UsageError
from orpo_cli.rundir import RunDir, write_atomically

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

CARD = "README.md"

# What trainers leave beside the weights: state to resume from, and pickles of arguments, which may hold a token.
_LEFT_OUT = ("training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "trainer_state.json", "rng_state*.pth")


@dataclass(frozen=True)
class PushFile:
    """A file that goes up. ``size`` in bytes."""

    path_in_repo: str
    source: Path
    size: int


@dataclass(frozen=True)
class PushResult:
    """What went up, or would: ``status`` is ``dry-run``, ``pushed``, or ``unchanged`` (all of it was there already)."""

    status: Literal["dry-run", "pushed", "unchanged"]
    what: What
    repo_id: str
    private: bool
    revision: str
    commit_message: str
    files: tuple[PushFile, ...]
    url: str | None = None
    commit: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values, for ``--json``."""
        files = [{"path": file.path_in_repo, "source": str(file.source), "size": file.size} for file in self.files]
        return {**asdict(self), "files": files, "size": self.size}


def push(
    rundir: RunDir,
    repo_id: str | None = None,
    *,
    what: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    dry_run: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> PushResult:
    """Push one of the run's results to the model repository ``repo_id``, which is made if it does not exist.

    ``what`` is by default the adapter of a LoRA run and the model of a full one; ``private`` and ``repo_id`` default to
    the plan's. ``dry_run`` makes no network call and writes nothing. The token comes from the environment or the hub
    login. Raises UsageError for what cannot be pushed, HubError for what the hub refuses.
    """
    plan = rundir.read_plan()
    repo_id = _valid_repo_id(repo_id or plan.hub.repo_id)
    chosen = _chosen(rundir, what)
    card, by_hand = fresh_card(rundir, what=chosen, repo_id=repo_id)
    result = PushResult(
        status="dry-run",
        what=chosen,
        repo_id=repo_id,
        private=plan.hub.private if private is None else private,
        revision=revision or "main",
        commit_message=commit_message or f"Push {chosen} of {plan.name} with orpo-cli",
        files=_files(rundir, chosen, len(card.encode())),
    )
    if by_hand:
        note(f"{rundir.card} was edited by hand: it goes up as it is.")
    if chosen == "adapter" and hub_id(plan.model.model_name_or_path) is None:
        note(f"the base {plan.model.model_name_or_path} is not on the hub: who loads the adapter must have it.")
    if dry_run:
        return result
    if not by_hand:
        write_atomically(rundir.card, card)
    return _upload(result, note)


def _valid_repo_id(repo_id: str | None) -> str:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if not repo_id:
        raise UsageError(
            "no repository is given.", remedy="Say `orpo push-to-hub RUN NAMESPACE/NAME`, or set hub.repo_id."
        )
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UsageError(str(error), remedy="Give NAMESPACE/NAME.") from error
    if repo_id.count("/") != 1:
        raise UsageError(
            f"{repo_id!r} has no namespace.", remedy="Give NAMESPACE/NAME: your user or organization name first."
        )
    return repo_id


def _chosen(rundir: RunDir, what: str | None) -> What:
    """What to push, checked to be there and whole."""
    trained: What = "model" if rundir.result() == rundir.model else "adapter"
    what = what or trained
    if what not in get_args(What):
        raise UsageError(f"--what {what}: not one of {', '.join(get_args(What))}.")
    if what == "merged":
        _check_merged(rundir)
        return "merged"
    if what != trained:
        raise UsageError(
            f"{rundir.root} holds no {what}: the run trained {_trained_words(trained)}.", remedy=f"--what {trained}"
        )
    return trained


def _trained_words(trained: What) -> str:
    return "every weight" if trained == "model" else "a LoRA adapter"


def _check_merged(rundir: RunDir) -> None:
    if rundir.result() == rundir.model:
        raise UsageError(f"{rundir.root} trained every weight: there is nothing to merge.", remedy="--what model")
    record = MergeRecord.read(rundir.merged)
    if record is None or not record.verified:
        raise UsageError(f"{rundir.merged} is no verified merge.", remedy=f"Make it: `orpo merge {rundir.root}`.")
    if record.adapter_sha256 != adapter_digests(rundir.adapter):
        raise UsageError(
            f"{rundir.merged} was merged from another adapter than {rundir.adapter}.",
            remedy=f"Merge again: `orpo merge {rundir.root} --overwrite`.",
        )


def _files(rundir: RunDir, what: What, card_size: int) -> tuple[PushFile, ...]:
    folder = {"adapter": rundir.adapter, "merged": rundir.merged, "model": rundir.model}[what]
    found = [PushFile(CARD, rundir.card, card_size)]
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        hidden = any(part.startswith(".") or part.startswith("checkpoint-") for part in inner.parts)
        if path.is_file() and not hidden and str(inner) != CARD and not any(path.match(name) for name in _LEFT_OUT):
            found.append(PushFile(inner.as_posix(), path, path.stat().st_size))
    return tuple(found)


def _upload(result: PushResult, note: Callable[[str], None]) -> PushResult:
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    token = get_token()
    if token is None:
        raise HubError(
            "no hub token: neither HF_TOKEN in the environment nor a login.", remedy="`hf auth login`, or set HF_TOKEN."
        )
    redact_log("huggingface_hub")
    with explained(result.repo_id):
        api = HfApi(token=token, library_name="orpo-cli")
        _make_repo(api, result, note)
        before = _remote_files(api, result.repo_id, result.revision)
        additions = [CommitOperationAdd(file.path_in_repo, str(file.source)) for file in result.files]
        commit = api.create_commit(
            result.repo_id, additions, commit_message=result.commit_message, revision=result.revision
        )
        after = _remote_files(api, result.repo_id, commit.oid)
    _compare(additions, after, result.repo_id)
    others = sorted(set(after) - {file.path_in_repo for file in result.files} - {".gitattributes"})
    if others:
        note(f"{result.repo_id} also holds, untouched: {', '.join(others)}")
    status: Literal["pushed", "unchanged"] = "unchanged" if before == after else "pushed"
    return replace(result, status=status, url=f"{api.endpoint}/{result.repo_id}", commit=commit.oid)


def _make_repo(api: HfApi, result: PushResult, note: Callable[[str], None]) -> None:
    """Make repository and branch where they do not exist. An existing one keeps its visibility, so it must match."""
    from huggingface_hub.errors import RepositoryNotFoundError

    wanted = "private" if result.private else "public"
    try:
        info = api.model_info(result.repo_id)
    except RepositoryNotFoundError:
        note(f"making the {wanted} repository {result.repo_id}")
        api.create_repo(result.repo_id, private=result.private, exist_ok=True)
    else:
        if info.private is not None and info.private != result.private:
            there = "private" if info.private else "public"
            raise UsageError(
                f"{result.repo_id} exists and is {there}, not {wanted}.",
                remedy=f"Say --{there} to push all the same, or change its visibility in its settings on the hub.",
            )
    if result.revision != "main" and not result.revision.startswith("refs/"):
        api.create_branch(result.repo_id, branch=result.revision, exist_ok=True)


def _remote_files(api: HfApi, repo_id: str, revision: str) -> dict[str, str]:
    """Path in the repository: sha256 of its content (LFS and Xet files) or git blob id (the others)."""
    from huggingface_hub.hf_api import RepoFile

    tree = api.list_repo_tree(repo_id, recursive=True, revision=revision)
    return {each.path: each.lfs.sha256 if each.lfs else each.blob_id for each in tree if isinstance(each, RepoFile)}


def _compare(additions: list[CommitOperationAdd], remote: dict[str, str], repo_id: str) -> None:
    """Every file is there with the bytes it has here, or HubError."""
    from huggingface_hub.utils.sha import git_hash

    wrong = []
    for addition in additions:
        there = remote.get(addition.path_in_repo, "")
        if len(there) == 64:  # a sha256; a git blob id has 40 digits
            here = addition.upload_info.sha256.hex()
        else:
            here = git_hash(Path(str(addition.path_or_fileobj)).read_bytes())
        if here != there:
            wrong.append(addition.path_in_repo)
    if wrong:
        raise HubError(
            f"{repo_id}: after the push these files are missing or differ: {', '.join(wrong)}",
            remedy="Push again; if it stays so, a .gitignore in the repository may leave them out.",
        )
