"""License of the base model, from the hub, the model card in its folder or its GGUF file; and whether the hub gates the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import OrpoError
from orpo_cli.model.model_source import locate

if TYPE_CHECKING:
    from huggingface_hub import HfApi


LICENSE_FIELDS = ("license", "license_name", "license_link")  # of a model card; general.license.name of a GGUF file


@dataclass(frozen=True)
class BaseLicense:
    """License fields of the model card of the base; ``gated``: the hub requires users to accept its terms."""

    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    gated: bool = False


def hub_id(model: str) -> str | None:
    """``model`` if it is the id of a model on the hub; None for a path."""
    try:
        return model if locate(model).kind == "hub" else None
    except OrpoError:  # a path or package that is not on this machine
        return None


def read_local_license(model: str) -> BaseLicense | None:
    """The license from the model card in the folder of a local base, or from its GGUF file; None where neither has one."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    try:
        source = locate(model)
    except OrpoError:
        return None
    if source.kind == "gguf" and source.path is not None:
        return _license_of_gguf(source.path)
    card = source.path / "README.md" if source.kind == "folder" and source.path is not None else None
    if card is None or not card.is_file():
        return None
    try:
        data = ModelCard.load(card, ignore_metadata_errors=True).data
    except (ValueError, OSError, YAMLError):
        return None
    return _license_from_card(data) if getattr(data, "license", None) else None


def _license_of_gguf(path: Path) -> BaseLicense | None:
    try:
        from gguf import GGUFReader

        fields = GGUFReader(path).fields
    except Exception:  # the package is missing, or the reader raises whatever a damaged file leads to
        return None
    names = {key: f"general.{key.replace('_', '.')}" for key in LICENSE_FIELDS}
    terms: dict[str, Any] = {key: str(fields[name].contents()) for key, name in names.items() if name in fields}
    return BaseLicense(**terms) if "license" in terms else None


def fetch_hub_license(api: HfApi, model: str, note: Callable[[str], None]) -> BaseLicense | None:
    """The license of the model on the hub; None if the hub does not show the model."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = api.model_info(model)
    except HfHubHTTPError as error:
        if error.response.status_code not in (401, 403, 404):
            raise
        note(f"the hub does not show the base {model} (HTTP {error.response.status_code}): its license is unknown.")
        return None
    return replace(_license_from_card(info.card_data), gated=bool(info.gated))


def _license_from_card(data: object) -> BaseLicense:
    terms: dict[str, Any] = {name: str(value) for name in LICENSE_FIELDS if (value := getattr(data, name, None))}
    return BaseLicense(**terms)
