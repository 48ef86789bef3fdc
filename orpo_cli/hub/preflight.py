"""What is asked of the hub before the first byte goes up: may this token write there, is the place free, whose is the base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orpo_cli.card.base_license import BaseTerms, hub_id, terms_in_folder, terms_on_hub
from orpo_cli.errors import HubError, UsageError
from orpo_cli.plan.plan import Plan

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from orpo_cli.hub.retry import RetryPolicy

TOKENS = "https://huggingface.co/settings/tokens"


@dataclass(frozen=True)
class PushOptions:
    """What a push asks for."""

    repo_id: str
    private: bool
    revision: str
    create_pr: bool = False
    tag: str | None = None
    force: bool = False


@dataclass(frozen=True)
class RepoState:
    """What there is: the repository, and the commits that its branches and tags stand at."""

    exists: bool
    branches: dict[str, str]
    tags: dict[str, str]


def preflight(api: HfApi, wish: PushOptions, patience: RetryPolicy) -> RepoState:
    """Raise HubError or UsageError for what the hub would refuse, before anything is sent; nothing is changed."""
    from huggingface_hub.errors import RepositoryNotFoundError

    who = _who(api, patience)
    try:
        info = patience.call(f"asking for {wish.repo_id}", lambda: api.model_info(wish.repo_id))
    except RepositoryNotFoundError:
        info = None
    if reason := why_it_may_not_write(who, wish.repo_id, create_pr=wish.create_pr, new=info is None):
        raise HubError(f"{wish.repo_id}: {reason[0]}", remedy=reason[1])
    if info is None:
        if wish.create_pr:
            raise UsageError(
                f"{wish.repo_id} does not exist, so it takes no pull request.", remedy="Leave --create-pr out."
            )
        return RepoState(False, {}, {})
    if not wish.create_pr:
        _check_visibility(wish, info.private)
    if wish.revision == "main" and wish.tag is None:
        return RepoState(True, {"main": info.sha or ""}, {})
    refs = patience.call("asking for branches and tags", lambda: api.list_repo_refs(wish.repo_id))
    standing = RepoState(
        True,
        {each.name: each.target_commit for each in refs.branches},
        {each.name: each.target_commit for each in refs.tags},
    )
    if wish.revision in standing.tags:
        raise UsageError(f"--revision {wish.revision} is a tag, and nothing is pushed to a tag.", remedy="Use --tag.")
    return standing


def check_base(
    api: HfApi, plan: Plan, patience: RetryPolicy, *, weights: bool, public: bool, accepted: bool
) -> BaseTerms | None:
    """The base's terms, from the hub or from the card beside it; None where nobody knows them.

    ``weights``: the base's own weights go up with ours. Raises UsageError where they would become public although one has
    to accept terms to get them, unless the user says so.
    """
    base, note = plan.model.model_name_or_path, patience.note
    if hub_id(base) is None:
        return terms_in_folder(base)
    terms = patience.call(f"asking for {base}", lambda: terms_on_hub(api, base, note))
    if terms is None:
        return None
    if terms.license:
        note(f"the base {base} has the licence {terms.license_name or terms.license}")
    if terms.gated and public and weights and not accepted:
        raise UsageError(
            f"the base {base} is given only to those who accept its terms, and this would make its weights public.",
            remedy="Push privately (--private), push the adapter alone, or, where its terms let you, say --accept-base-license; "
            "the card then says that they hold.",
        )
    if terms.gated:
        note(f"the base {base} is gated: the card says that its terms hold.")
    return terms


def why_it_may_not_write(
    who: dict[str, Any] | None, repo_id: str, *, create_pr: bool, new: bool
) -> tuple[str, str] | None:
    """(reason, remedy) where what the hub says of a token (``/api/whoami-v2``) does not let it write; None where it may.

    Nothing is held against a token of which the hub says nothing.
    """
    if who is None:
        return None
    namespace = repo_id.partition("/")[0]
    token = (who.get("auth") or {}).get("accessToken") or {}
    role, called = token.get("role"), f"the token {token.get('displayName', '')!r}"
    if role == "read":
        return f"{called} may read and not write.", f"Make one with the write role at {TOKENS}."
    if role == "fineGrained":
        if _may_by_scope(token.get("fineGrained") or {}, repo_id, create_pr=create_pr, new=new):
            return None
        needed = "namespace" if new else "repository or its namespace"
        return (
            f"{called} has no write permission there.",
            f"Give it write access to the {needed} at {TOKENS}, or use a token with the write role.",
        )
    if "name" not in who or create_pr:
        return None
    organizations = {str(each.get("name", "")).lower(): each.get("roleInOrg") for each in who.get("orgs") or []}
    if namespace.lower() == str(who["name"]).lower():
        return None
    if namespace.lower() not in organizations:
        names = ", ".join([str(who["name"]), *organizations])
        return f"{namespace} is neither your name nor an organization of yours.", f"Yours are: {names}."
    if organizations[namespace.lower()] == "read":
        return f"your role in {namespace} is to read.", "Ask for the write role, or push with --create-pr."
    return None


def _may_by_scope(scopes: dict[str, Any], repo_id: str, *, create_pr: bool, new: bool) -> bool:
    enough = {"repo.write", "discussion.write"} if create_pr else {"repo.write"}
    granted = set(scopes.get("global") or [])
    for scope in scopes.get("scoped") or []:
        entity = scope.get("entity") or {}
        name = str(entity.get("name", "")).lower()
        is_namespace = entity.get("type") in ("user", "org") and name == repo_id.partition("/")[0].lower()
        if is_namespace or (not new and name == repo_id.lower()):
            granted |= set(scope.get("permissions") or [])
    return bool(granted & enough)


def _who(api: HfApi, patience: RetryPolicy) -> dict[str, Any] | None:
    """What the hub says of the token. It answers this question seldom; where it does not, the push itself will tell."""
    from huggingface_hub.errors import HfHubHTTPError

    def ask() -> dict[str, Any] | None:
        try:
            return dict(api.whoami())
        except HfHubHTTPError as error:
            if error.response.status_code in (404, 429):
                return None
            raise

    return patience.call("asking what the token may do", ask)


def _check_visibility(wish: PushOptions, there: bool | None) -> None:
    if there is not None and there != wish.private:
        wanted, found = ("private" if each else "public" for each in (wish.private, there))
        raise UsageError(
            f"{wish.repo_id} exists and is {found}, not {wanted}.",
            remedy=f"Say --{found} to push all the same, or change its visibility in its settings on the hub.",
        )


def say_what_is_needed(note: Callable[[str], None], plan: Plan, *, adapter: bool) -> None:
    """A word about an adapter whose base others may not have."""
    if adapter and hub_id(plan.model.model_name_or_path) is None:
        note(f"the base {plan.model.model_name_or_path} is not on the hub: who loads the adapter must have it.")
