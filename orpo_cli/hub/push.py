"""What a run made onto the hub, with its card: nothing twice, and nothing over what somebody else put there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from orpo_cli.atomic import atomic_write_text
from orpo_cli.card.base_license import BaseLicense, read_local_license
from orpo_cli.card.curves import render_curves, write_curves
from orpo_cli.card.model_card import current_card
from orpo_cli.card.run_contents import CARD_PATH, PushFile, RunPart, files_to_push, select_parts
from orpo_cli.errors import UsageError
from orpo_cli.hub.hub_errors import translate_hub_errors
from orpo_cli.hub.preflight import PushOptions, check_base_license, note_local_base, preflight
from orpo_cli.hub.push_record import read_base_license, write_base_license
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
    what: tuple[RunPart, ...]
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
    options = PushOptions(
        _valid_repo_id(repo_id or plan.hub.repo_id), plan.hub.private if private is None else private,
        revision or "main", create_pr, tag, force,
    )  # fmt: skip
    parts = select_parts(rundir, choice.what)
    known_license = read_base_license(rundir) or read_local_license(plan.model.model_name_or_path)
    result = PushResult(
        status="dry-run",
        what=parts,
        repo_id=options.repo_id,
        private=options.private,
        revision=options.revision,
        commit_message=commit_message or f"Push {', '.join(parts)} of {plan.name} with orpo-cli",
        files=(),
        card="",
        tag=tag,
    )
    result = _with_files(rundir, result, choice, known_license, accept_base_license, note)
    note_local_base(note, plan, adapter="adapter" in parts)
    if dry_run:
        return result
    retry = RetryPolicy(note)
    with translate_hub_errors(options.repo_id):
        api = connect(retry)
        state = preflight(api, options, retry)
        base_license = check_base_license(
            api,
            plan,
            retry,
            contains_base_weights=parts != ("adapter",),
            public=not options.private,
            license_accepted=accept_base_license,
        )
        if base_license is not None:
            write_base_license(rundir, base_license)
        if base_license != known_license:
            result = _with_files(
                rundir, result, choice, base_license or known_license, accept_base_license, lambda text: None
            )
        write_curves(rundir)
        atomic_write_text(rundir.card, result.card)
        upload = Upload(
            api, rundir, options, state, result.files, retry, is_complete=not (choice.include or choice.exclude)
        )
        uploaded = upload.run(result.commit_message)
    return replace(
        result,
        status=uploaded.status,
        url=f"{api.endpoint}/{options.repo_id}",
        commit=uploaded.commit,
        deleted=uploaded.deleted,
        pull_request=uploaded.pull_request,
    )


def _with_files(
    rundir: RunDir, result: PushResult, choice: Choice, base_license: BaseLicense | None, license_accepted: bool,
    note: Callable[[str], None],
) -> PushResult:  # fmt: skip
    card, by_hand = current_card(
        rundir,
        parts=result.what,
        repo_id=result.repo_id,
        base_license=base_license,
        license_accepted=license_accepted,
        samples=choice.samples,
    )
    if by_hand:
        note(f"{rundir.card} was edited by hand: it goes up as it is.")
    elif choice.samples and rundir.samples.is_file():
        note("the card shows answers to held-out prompts (--no-samples leaves them out).")
    files = files_to_push(
        rundir, result.what, card, render_curves(rundir), include=choice.include, exclude=choice.exclude
    )
    if not any(file.path_in_repo == CARD_PATH for file in files):
        note(f"the card ({CARD_PATH}) does not go up: --include and --exclude say so.")
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
