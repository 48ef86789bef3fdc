"""Web addresses of the Hugging Face Hub, which people copy from the browser in place of the id of a repository."""

from __future__ import annotations

import re
from typing import NamedTuple

_ADDRESS = re.compile(
    r"(?:https?|ftp|git|ssh|hf)://|git@|(?:www\.)?(?:huggingface\.co|hf\.co|hf-mirror\.com|modelscope\.cn)/", re.I
)
_HUB = re.compile(
    r"(?:https?://(?:www\.)?(?:huggingface\.co|hf\.co|hf-mirror\.com)/|(?:www\.)?(?:huggingface\.co|hf\.co|hf-mirror\.com)/"
    r"|git@(?:hf|huggingface)\.co:|hf://)"
    r"(?:(?P<kind>datasets|spaces|models)/)?(?P<id>[\w.-]+/[\w.-]+?)(?:\.git)?(?:@(?P<at>[^/?#]+))?"
    r"(?:/(?:tree|blob|resolve|raw|commit)/(?P<revision>[^/?#]+)(?:/(?P<file>[^?#]*))?)?/?(?:[?#].*)?",
    re.I,
)


class HubAddress(NamedTuple):
    """Repository at an address: its kind (``models``, ``datasets``, ``spaces``), id, revision and file, where the address has them."""

    kind: str
    id: str
    revision: str | None = None
    file: str | None = None


def parse_hub_address(text: str) -> HubAddress | None:
    """The repository at an address of the hub, as the browser shows it or as ``hf://…``; None for another text."""
    found = _HUB.fullmatch(text.strip())
    if found is None:
        return None
    return HubAddress(found["kind"] or "models", found["id"], found["revision"] or found["at"], found["file"] or None)


def is_address(text: str) -> bool:
    """Whether ``text`` is a web address. ``package://`` is not one."""
    return _ADDRESS.match(text.strip()) is not None


def address_remedy(text: str) -> str:
    """What to write in place of the address of a model."""
    hub = parse_hub_address(text)
    if hub is None:
        return "Write the id of a model on the hub, NAMESPACE/NAME, or download the model and write its folder."
    if hub.kind != "models":
        return f"It is the address of one of the hub's {hub.kind}. Write the id of a model, NAMESPACE/NAME."
    revision = "" if hub.revision in (None, "main") else f", and set model.model_revision: {hub.revision}"
    return f"Write NAMESPACE/NAME: {hub.id}{revision}."
