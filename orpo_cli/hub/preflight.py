"""Pre-upload checks: write permission of the token, state of the repository, license of the base model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orpo_cli.card.base_license import BaseLicense, fetch_hub_license, hub_id, read_local_license
from orpo_cli.errors import HubRefused, UsageError
from orpo_cli.hub.retry import RetryPolicy, connect

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TOKEN_SETTINGS_URL = "https://huggingface.co/settings/tokens"


@dataclass(frozen=True)
class PushOptions:
    """Target and mode of a push, with every default resolved."""

    repo_id: str
    private: bool
    revision: str
    create_pr: bool = False
    tag: str | None = None
    force: bool = False


@dataclass(frozen=True)
class RepoState:
    """State of a repository on the hub: the commit of each branch and tag, by name; whether it is private, if it says so."""

    exists: bool
    branches: dict[str, str]
    tags: dict[str, str]
    private: bool | None = None


def run_preflight(
    base: str, options: PushOptions, retry: RetryPolicy, *, includes_base: bool, license_accepted: bool = False
) -> tuple[HfApi, RepoState, BaseLicense | None]:
    """Connect to the hub and run all checks; returns the client, the repository and the license of the model ``base``.

    ``includes_base``: the pushed weights include those of the base. ``license_accepted``: the user confirmed that the terms
    of a gated base allow that they become public.
    """
    api = connect(retry)
    state = _check_repository(api, options, retry)
    base_license = _base_license(api, base, retry)
    if base_license is not None:
        if base_license.gated and includes_base and not will_be_private(options, state) and not license_accepted:
            raise UsageError(
                f"the base {base} is gated, and this push would make its weights public.",
                remedy="Push privately (--private), push only the adapter, or add --accept-base-license if the terms of the "
                "base allow it; the card then says that they apply.",
            )
    return api, state, base_license


def will_be_private(options: PushOptions, state: RepoState) -> bool:
    """Whether what is pushed will be private: a pull request is as visible as its repository."""
    return options.private if state.private is None else state.private


def _check_repository(api: HfApi, options: PushOptions, retry: RetryPolicy) -> RepoState:
    """Raise HubRefused or UsageError for a push that the hub would refuse, before any file is sent."""
    from huggingface_hub.errors import RepositoryNotFoundError

    account = _token_account(api, retry)
    try:
        info = retry.call(f"reading {options.repo_id}", lambda: api.model_info(options.repo_id))
    except RepositoryNotFoundError:
        info = None
    if reason := missing_permission(account, options.repo_id, create_pr=options.create_pr, is_new=info is None):
        raise HubRefused(f"{options.repo_id}: {reason[0]}", remedy=reason[1])
    if info is None:
        if options.create_pr:
            raise UsageError(
                f"{options.repo_id} does not exist, so it accepts no pull request.", remedy="Omit --create-pr."
            )
        return RepoState(False, {}, {})
    if not options.create_pr:
        _check_visibility(options, info.private)
    if options.revision == "main" and options.tag is None:
        return RepoState(True, {"main": info.sha or ""}, {}, info.private)
    refs = retry.call("reading branches and tags", lambda: api.list_repo_refs(options.repo_id))
    state = RepoState(
        True,
        {each.name: each.target_commit for each in refs.branches},
        {each.name: each.target_commit for each in refs.tags},
        info.private,
    )
    if options.revision in state.tags:
        raise UsageError(f"--revision {options.revision} is a tag; files are pushed to a branch.", remedy="Use --tag.")
    return state


def _base_license(api: HfApi, base: str, retry: RetryPolicy) -> BaseLicense | None:
    """The license of the base, from the hub or from the card in its folder; None if it is unknown."""
    if hub_id(base) is None:
        return read_local_license(base)
    base_license = retry.call(f"reading {base}", lambda: fetch_hub_license(api, base, retry.note))
    if base_license is not None and base_license.license:
        retry.note(f"the base {base} has the license {base_license.license_name or base_license.license}")
    if base_license is not None and base_license.gated:
        retry.note(f"the base {base} is gated: the card says that its terms apply.")
    return base_license


def missing_permission(
    account: dict[str, Any] | None, repo_id: str, *, create_pr: bool, is_new: bool
) -> tuple[str, str] | None:
    """(reason, remedy) if the token may not write to the repository; None if it may, or if ``account`` is unknown.

    ``account`` is the response of the hub to ``/api/whoami-v2``.
    """
    if account is None:
        return None
    namespace = repo_id.partition("/")[0]
    token = (account.get("auth") or {}).get("accessToken") or {}
    role, token_name = token.get("role"), f"the token {token.get('displayName', '')!r}"
    if role == "read":
        return f"{token_name} may read but not write.", f"Create one with the write role at {TOKEN_SETTINGS_URL}."
    if role == "fineGrained":
        if _scopes_allow(token.get("fineGrained") or {}, repo_id, create_pr=create_pr, is_new=is_new):
            return None
        needed = "namespace" if is_new else "repository or its namespace"
        return (
            f"{token_name} has no write permission there.",
            f"Give it write access to the {needed} at {TOKEN_SETTINGS_URL}, or use a token with the write role.",
        )
    if "name" not in account or create_pr:
        return None
    organizations = {str(each.get("name", "")).lower(): each.get("roleInOrg") for each in account.get("orgs") or []}
    if namespace.lower() == str(account["name"]).lower():
        return None
    if namespace.lower() not in organizations:
        names = ", ".join([str(account["name"]), *organizations])
        return f"{namespace} is neither your user name nor one of your organizations.", f"Yours are: {names}."
    if organizations[namespace.lower()] == "read":
        return f"your role in {namespace} is read.", "Request the write role, or push with --create-pr."
    return None


def _scopes_allow(scopes: dict[str, Any], repo_id: str, *, create_pr: bool, is_new: bool) -> bool:
    sufficient = {"repo.write", "discussion.write"} if create_pr else {"repo.write"}
    granted = set(scopes.get("global") or [])
    for scope in scopes.get("scoped") or []:
        entity = scope.get("entity") or {}
        name = str(entity.get("name", "")).lower()
        is_namespace = entity.get("type") in ("user", "org") and name == repo_id.partition("/")[0].lower()
        if is_namespace or (not is_new and name == repo_id.lower()):
            granted |= set(scope.get("permissions") or [])
    return bool(granted & sufficient)


def _token_account(api: HfApi, retry: RetryPolicy) -> dict[str, Any] | None:
    """The response of the hub to whoami; None if the hub does not answer it.

    The hub limits whoami to few requests. Without it, the push fails later if the token may not write.
    """
    from huggingface_hub.errors import HfHubHTTPError

    def request() -> dict[str, Any] | None:
        try:
            return dict(api.whoami())
        except HfHubHTTPError as error:
            if error.response.status_code not in (404, 429):
                raise
            retry.note(
                f"the hub does not say what this token may do (HTTP {error.response.status_code}): it is not checked"
            )
            return None

    return retry.call("reading the permissions of the token", request)


def _check_visibility(options: PushOptions, is_private: bool | None) -> None:
    if is_private is not None and is_private != options.private:
        wanted, found = ("private" if each else "public" for each in (options.private, is_private))
        raise UsageError(
            f"{options.repo_id} exists and is {found}, not {wanted}.",
            remedy=f"Add --{found}, or change its visibility in its settings on the hub.",
        )
