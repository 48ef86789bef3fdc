"""Push of a run to the hub: adapter, merged model, model or GGUF files, with a model card.

No file is sent twice, and no file that somebody else put into the repository is overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from orpo_cli.atomic import atomic_write_text
from orpo_cli.card.base_license import BaseLicense, hub_id, read_local_license
from orpo_cli.card.curves import render_curves, write_curves
from orpo_cli.card.model_card import edited_card, render_card
from orpo_cli.card.run_contents import CARD_PATH, PushFile, RunPart, files_to_push, select_parts
from orpo_cli.errors import UsageError
from orpo_cli.hub.hub_errors import translate_hub_errors
from orpo_cli.hub.preflight import PushOptions, run_preflight, will_be_private
from orpo_cli.hub.push_record import read_base_license, write_base_license
from orpo_cli.hub.retry import RetryPolicy
from orpo_cli.hub.upload import Upload
from orpo_cli.recipe.schema import HubSection
from orpo_cli.rundir import RunDir


@dataclass(frozen=True)
class PushRequest:
    """What the user asks for. None means the value of the plan, or the default beside the field."""

    repo_id: str | None = None
    parts: Sequence[str] = ()  # RunPart or "all"; empty: what the run trained
    include: Sequence[str] = ()  # patterns of paths in the repository
    exclude: Sequence[str] = ()
    samples: bool = True  # show answers to held-out prompts in the card
    private: bool | None = None
    revision: str | None = None  # a branch; default: main
    create_pr: bool = False
    tag: str | None = None
    commit_message: str | None = None
    accept_base_license: bool = False
    force: bool = False  # replace files that this run did not push, and move a tag
    dry_run: bool = False


@dataclass(frozen=True)
class PushResult:
    """What was pushed, or would be in a dry run. ``unchanged``: the repository had all files already."""

    status: Literal["dry-run", "pushed", "unchanged"]
    what: tuple[RunPart, ...]
    repo_id: str
    private: bool
    revision: str
    commit_message: str
    files: tuple[PushFile, ...] = ()
    card: str = ""
    deleted: tuple[str, ...] = ()
    tag: str | None = None
    url: str | None = None
    commit: str | None = None
    pull_request: str | None = None

    @property
    def size(self) -> int:
        """Total size of the files in bytes."""
        return sum(file.size for file in self.files)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values, for ``--json``."""
        files = [
            {"path": file.path_in_repo, "source": str(file.source), "size": file.size, "part": file.part}
            for file in self.files
        ]
        return {**asdict(self), "files": files, "size": self.size}


def push(rundir: RunDir, request: PushRequest, note: Callable[[str], None] = lambda text: None) -> PushResult:
    """Push parts of a run, with a model card, to a model repository, which is created if it does not exist.

    A dry run makes no network request and writes no file. The token comes from the environment or from the hub login.
    Raises UsageError for what cannot be pushed, HubError where the hub refuses or somebody else changed a file there.
    """
    plan = rundir.read_plan()
    options = resolve_options(request, plan.hub)
    parts = select_parts(rundir, request.parts)
    base = plan.model.model_name_or_path
    known_license = read_base_license(rundir) or read_local_license(base)
    result = PushResult(
        status="dry-run",
        what=parts,
        repo_id=options.repo_id,
        private=options.private,
        revision=options.revision,
        commit_message=request.commit_message or f"Push {', '.join(parts)} of {plan.name} with orpo-cli",
        tag=options.tag,
    )
    result = _with_files(rundir, result, request, known_license, note)
    if "adapter" in parts and hub_id(base) is None:
        note(f"the base {base} is not on the hub: whoever loads the adapter needs a copy of it.")
    if request.dry_run:
        return result
    retry = RetryPolicy(note)
    with translate_hub_errors(options.repo_id):
        api, state, base_license = run_preflight(
            base, options, retry, includes_base=parts != ("adapter",), license_accepted=request.accept_base_license
        )
        write_base_license(rundir, base_license)
        if base_license != known_license:
            result = _with_files(rundir, result, request, base_license or known_license, lambda text: None)
        write_curves(rundir)
        atomic_write_text(rundir.card, result.card)
        is_complete = not (request.include or request.exclude)
        uploaded = Upload(api, rundir, options, state, result.files, retry, is_complete).run(result.commit_message)
    private = will_be_private(options, state)
    return replace(result, private=private, url=f"{api.endpoint}/{options.repo_id}", **asdict(uploaded))


def resolve_options(request: PushRequest, hub: HubSection) -> PushOptions:
    """Target and mode of a push; the defaults are those of the section ``hub`` of a recipe. Raises UsageError."""
    if request.create_pr and request.tag:
        raise UsageError("--tag with --create-pr: a pull request that is not merged yet has no commit to tag.")
    return PushOptions(
        repo_id=_valid_repo_id(request.repo_id or hub.repo_id),
        private=hub.private if request.private is None else request.private,
        revision=request.revision or "main",
        create_pr=request.create_pr,
        tag=request.tag,
        force=request.force,
    )


def _with_files(
    rundir: RunDir,
    result: PushResult,
    request: PushRequest,
    base_license: BaseLicense | None,
    note: Callable[[str], None],
) -> PushResult:
    """``result`` with its card and its list of files."""
    card = edited_card(rundir)
    if card is not None:
        note(f"{rundir.card} was edited by hand: it is pushed unchanged.")
    else:
        card = render_card(
            rundir,
            parts=result.what,
            repo_id=result.repo_id,
            base_license=base_license,
            license_accepted=request.accept_base_license,
            samples=request.samples,
        )
        if request.samples and rundir.samples.is_file():
            note("the card shows answers to held-out prompts (--no-samples leaves them out).")
    files = files_to_push(
        rundir, result.what, card, render_curves(rundir), include=request.include, exclude=request.exclude
    )
    if not any(file.path_in_repo == CARD_PATH for file in files):
        note(f"the card ({CARD_PATH}) is not pushed: --include or --exclude leaves it out.")
    return replace(result, card=card, files=files)


def _valid_repo_id(repo_id: str | None) -> str:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if not repo_id:
        raise UsageError("no repository is given.", remedy="Give NAMESPACE/NAME, or set hub.repo_id in the recipe.")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UsageError(str(error), remedy="Give NAMESPACE/NAME.") from error
    if repo_id.count("/") != 1:
        raise UsageError(
            f"{repo_id!r} has no namespace.", remedy="Give NAMESPACE/NAME: your user or organization name first."
        )
    return repo_id
