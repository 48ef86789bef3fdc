"""Check of a push (`orpo push-to-hub --check`): ask the hub everything that can refuse the push, and send nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from orpo_cli import interruption
from orpo_cli.card.base_license import BaseLicense
from orpo_cli.card.curves import render_curves
from orpo_cli.card.run_contents import PushFile, files_to_push, select_parts
from orpo_cli.errors import Interrupted, OrpoError
from orpo_cli.hub.hub_errors import REPEAT_TO_CONTINUE, translate_hub_errors
from orpo_cli.hub.preflight import run_preflight, will_be_private
from orpo_cli.hub.push import PushRequest, resolve_options
from orpo_cli.hub.retry import RetryPolicy
from orpo_cli.hub.upload import Upload
from orpo_cli.recipe.schema import HubSection
from orpo_cli.rundir import RunDir


@dataclass(frozen=True)
class PushCheck:
    """A push that the hub would accept. ``exists``: the repository is there already."""

    status: Literal["checked"]
    repo_id: str
    exists: bool
    private: bool
    revision: str
    what: tuple[str, ...]
    base_license: str | None  # None: it is unknown
    base_is_gated: bool


def check_run(rundir: RunDir, request: PushRequest, note: Callable[[str], None] = lambda text: None) -> PushCheck:
    """Raise the errors that the push of a run would raise before it sends a file. Nothing is sent or written."""
    plan, parts = rundir.read_plan(), select_parts(rundir, request.parts)
    files = files_to_push(
        rundir, parts, card="", curves=render_curves(rundir), include=request.include, exclude=request.exclude
    )
    return _check(rundir, request, plan.hub, plan.model.model_name_or_path, parts, files, note)


def check_before_training(
    rundir: RunDir,
    request: PushRequest,
    hub: HubSection,
    *,
    base: str,
    trains_adapter: bool,
    note: Callable[[str], None] = lambda text: None,
) -> PushCheck:
    """Raise the errors that a push after the training would raise, also for weights in the repository that it would replace.

    ``rundir``: where the run will be. ``base``: the model of the recipe.
    """
    parts = tuple(request.parts) or ("adapter" if trains_adapter else "model",)
    return _check(rundir, request, hub, base, parts, None, note)


@contextmanager
def _sending_nothing() -> Iterator[None]:
    """Context in which the remedy of an error does not say that the same command continues: a check has sent nothing."""
    try:
        yield
    except Interrupted as error:
        raise Interrupted(f"{interruption.interrupted()}: nothing was sent.") from error
    except OrpoError as error:
        error.remedy = error.remedy and error.remedy.replace(REPEAT_TO_CONTINUE, "Then check again.")
        raise


def _check(
    rundir: RunDir,
    request: PushRequest,
    hub: HubSection,
    base: str,
    parts: Sequence[str],
    files: Sequence[PushFile] | None,
    note: Callable[[str], None],
) -> PushCheck:
    options, retry = resolve_options(request, hub), RetryPolicy(note)
    with _sending_nothing(), translate_hub_errors(options.repo_id):
        api, state, found_license = run_preflight(
            base,
            options,
            retry,
            includes_base=set(parts) != {"adapter"},
            license_accepted=request.accept_base_license,
        )
        is_complete = not (request.include or request.exclude)
        upload = Upload(api, rundir, options, state, files or (), retry, is_complete)
        if files is not None:
            upload.check()
        elif state.exists:
            upload.check_foreign_weights()
    base_license = found_license or BaseLicense()
    return PushCheck(
        status="checked",
        repo_id=options.repo_id,
        exists=state.exists,
        private=will_be_private(options, state),
        revision=options.revision,
        what=tuple(parts),
        base_license=base_license.license_name or base_license.license,
        base_is_gated=base_license.gated,
    )
