"""What a run made onto the hub, with its card: nothing twice, and nothing over what somebody else put there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from orpo_cli.atomic import atomic_write_text
from orpo_cli.card.base_license import BaseTerms, terms_in_folder
from orpo_cli.card.curves import curves_of, write_curves
from orpo_cli.card.model_card import fresh_card
from orpo_cli.card.run_contents import CARD, PushFile, What, chosen_parts, files_to_push
from orpo_cli.errors import UsageError
from orpo_cli.hub.hub_errors import explained
from orpo_cli.hub.preflight import PushOptions, check_base, preflight, say_what_is_needed
from orpo_cli.hub.push_record import read_base_terms, write_base_terms
from orpo_cli.hub.retry import RetryPolicy, connect
from orpo_cli.hub.upload import Upload
from orpo_cli.rundir import RunDir


@dataclass(frozen=True)
class Choice:
    """What goes up of what the run holds. ``what`` as in ``chosen_parts``; patterns are of paths in the repository."""

    what: Sequence[str] = ()
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    samples: bool = True  # whether the card shows answers to held-out prompts


@dataclass(frozen=True)
class PushResult:
    """What went up, or would: ``status`` is ``dry-run``, ``pushed``, or ``unchanged`` (all of it was there already)."""

    status: Literal["dry-run", "pushed", "unchanged"]
    what: tuple[What, ...]
    repo_id: str
    private: bool
    revision: str
    commit_message: str
    files: tuple[PushFile, ...]
    card: str
    deleted: tuple[str, ...] = ()
    tag: str | None = None
    url: str | None = None
    commit: str | None = None
    pull_request: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values, for ``--json``."""
        files = [
            {"path": file.path_in_repo, "source": str(file.source), "size": file.size, "part": file.part}
            for file in self.files
        ]
        return {**asdict(self), "files": files, "size": self.size}


def push(
    rundir: RunDir,
    repo_id: str | None = None,
    *,
    choice: Choice = Choice(),
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    tag: str | None = None,
    commit_message: str | None = None,
    accept_base_license: bool = False,
    force: bool = False,
    dry_run: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> PushResult:
    """Push what the run holds to the model repository ``repo_id``, which is made if it does not exist.

    By default the adapter of a LoRA run and the model of a full one; ``private`` and ``repo_id`` default to the plan's.
    ``dry_run`` makes no network call and writes nothing. The token comes from the environment or the hub login. ``force``
    replaces files of the repository that this run did not put there, and moves a tag. Raises UsageError for what cannot be
    pushed, HubError for what the hub refuses or what somebody else changed there.
    """
    plan = rundir.read_plan()
    if create_pr and tag:
        raise UsageError("--tag with --create-pr: a pull request that is not merged yet has nothing to tag.")
    wish = PushOptions(
        _valid_repo_id(repo_id or plan.hub.repo_id), plan.hub.private if private is None else private,
        revision or "main", create_pr, tag, force,
    )  # fmt: skip
    parts = chosen_parts(rundir, choice.what)
    terms = read_base_terms(rundir) or terms_in_folder(plan.model.model_name_or_path)
    result = PushResult(
        status="dry-run",
        what=parts,
        repo_id=wish.repo_id,
        private=wish.private,
        revision=wish.revision,
        commit_message=commit_message or f"Push {', '.join(parts)} of {plan.name} with orpo-cli",
        files=(),
        card="",
        tag=tag,
    )
    result = _with_files(rundir, result, choice, terms, accept_base_license, note)
    say_what_is_needed(note, plan, adapter="adapter" in parts)
    if dry_run:
        return result
    patience = RetryPolicy(note)
    with explained(wish.repo_id):
        api = connect(patience)
        standing = preflight(api, wish, patience)
        found = check_base(
            api, plan, patience, weights=parts != ("adapter",), public=not wish.private, accepted=accept_base_license
        )
        if found is not None:
            write_base_terms(rundir, found)
        if found != terms:
            result = _with_files(rundir, result, choice, found or terms, accept_base_license, lambda text: None)
        write_curves(rundir)
        atomic_write_text(rundir.card, result.card)
        upload = Upload(
            api, rundir, wish, standing, result.files, patience, whole=not (choice.include or choice.exclude)
        )
        landed = upload.run(result.commit_message)
    return replace(
        result,
        status=landed.status,
        url=f"{api.endpoint}/{wish.repo_id}",
        commit=landed.commit,
        deleted=landed.deleted,
        pull_request=landed.pull_request,
    )


def _with_files(
    rundir: RunDir, result: PushResult, choice: Choice, terms: BaseTerms | None, accepted: bool,
    note: Callable[[str], None],
) -> PushResult:  # fmt: skip
    card, by_hand = fresh_card(
        rundir, what=result.what, repo_id=result.repo_id, terms=terms, accepted=accepted, samples=choice.samples
    )
    if by_hand:
        note(f"{rundir.card} was edited by hand: it goes up as it is.")
    elif choice.samples and rundir.samples.is_file():
        note("the card shows answers to held-out prompts (--no-samples leaves them out).")
    files = files_to_push(rundir, result.what, card, curves_of(rundir), include=choice.include, exclude=choice.exclude)
    if not any(file.path_in_repo == CARD for file in files):
        note(f"the card ({CARD}) does not go up: --include and --exclude say so.")
    return replace(result, card=card, files=files)


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
