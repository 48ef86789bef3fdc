"""The licence of the base model, and whether the hub gives it to those alone who accepted its terms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orpo_cli.errors import OrpoError
from orpo_cli.model.model_source import locate

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@dataclass(frozen=True)
class BaseLicense:
    """``license`` and its name and link as in the base's own card; ``gated``: its terms must be accepted on the hub."""

    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    gated: bool = False


def hub_id(model: str) -> str | None:
    """``model`` if it is the id of a model on the hub, None for a path."""
    try:
        return model if locate(model).kind == "hub" else None
    except OrpoError:  # a path or package that is not on this machine
        return None


def read_local_license(model: str) -> BaseLicense | None:
    """What the card beside a local base says; None where there is no card, or no licence in it."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    try:
        place = locate(model)
    except OrpoError:
        return None
    card = place.path / "README.md" if place.kind == "folder" and place.path is not None else None
    if card is None or not card.is_file():
        return None
    try:
        data = ModelCard.load(card, ignore_metadata_errors=True).data
    except (ValueError, OSError, YAMLError):
        return None
    return _license_from_card(data) if getattr(data, "license", None) else None


def fetch_hub_license(api: HfApi, model: str, note: Callable[[str], None]) -> BaseLicense | None:
    """What the hub says of the base ``model`` (an id); None where it does not know it."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = api.model_info(model)
    except HfHubHTTPError as error:
        if error.response.status_code not in (401, 403, 404):
            raise
        note(f"the hub does not show the base {model} (HTTP {error.response.status_code}): its licence is not known.")
        return None
    terms = _license_from_card(info.card_data)
    gated = bool(info.gated)
    return BaseLicense(terms.license, terms.license_name, terms.license_link, gated)


def _license_from_card(data: object) -> BaseLicense:
    def text(name: str) -> str | None:
        value = getattr(data, name, None)
        return str(value) if value else None

    return BaseLicense(text("license"), text("license_name"), text("license_link"))
