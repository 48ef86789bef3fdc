"""Loopback hub: a hub server on the loopback interface, for pushes and downloads with the real huggingface_hub client.

``fail`` injects errors, ``delay`` slows responses down, ``edit_file`` is a commit of somebody else. The modules of this server do
not import huggingface_hub.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import Any

from support.hub_repository import LFS_SUFFIXES, HubRepository, StoredFile
from support.loopback_handler import LoopbackHandler
from support.loopback_server import LoopbackServer


@dataclass
class Fault:
    """An injected error of the matching requests after the first ``after``: a status, or a cut connection for None.

    ``response_lost``: the request is executed, but its response is the error. ``delay``: the request is executed after that
    many seconds, without an error.
    """

    method: str
    path: str  # regular expression, searched
    status: int | None
    headers: dict[str, str]
    after: int
    times: int | None  # None: no limit
    response_lost: bool = False
    delay: float = 0.0
    matched_requests: int = 0
    injected_faults: int = 0

    def matches(self, method: str, path: str) -> bool:
        if method != self.method or not re.search(self.path, path):
            return False
        self.matched_requests += 1
        if self.matched_requests <= self.after or (self.times is not None and self.injected_faults >= self.times):
            return False
        self.injected_faults += 1
        return True


class LoopbackHub:
    """The server, as a context manager; ``environment`` has the variables that direct huggingface_hub to it."""

    def __init__(self, token: str = "hf_loopbackTokenForTests") -> None:
        self.token = token
        self.whoami: dict[str, Any] | None = account("me")
        self.repos: dict[str, HubRepository] = {}
        self.lfs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.create_calls: list[dict[str, Any]] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()

    def fail(
        self,
        method: str,
        path: str,
        *,
        status: int | None = None,
        headers: dict[str, str] | None = None,
        after: int = 0,
        times: int | None = 1,
        response_lost: bool = False,
    ) -> None:
        """Answer matching requests with ``status``; for None, cut the connection in the middle of the request body."""
        self.faults.append(Fault(method, path, status, headers or {}, after, times, response_lost))

    def delay(self, method: str, path: str, seconds: float, *, times: int | None = 1) -> None:
        """Delay the response to matching requests."""
        self.faults.append(Fault(method, path, None, {}, 0, times, delay=seconds))

    def add(self, repo_id: str, **repo: Any) -> HubRepository:
        """Add an existing repository."""
        self.repos[repo_id] = HubRepository(**{"private": False, **repo})
        return self.repos[repo_id]

    def edit_file(self, repo_id: str, path: str, content: bytes | None, revision: str = "main") -> str:
        """Commit a changed file, or a removed file (None), as somebody else. Returns the commit id."""
        repo = self.repos[repo_id]
        files = {name: each for name, each in repo.branches[revision].items() if name != path}
        if content is not None:
            lfs = path.endswith(LFS_SUFFIXES)
            files[path] = StoredFile(content, lfs)
        return repo.add_commit(revision, files)

    def clear_faults(self) -> None:
        self.faults.clear()

    def count(self, method: str, path: str = "") -> int:
        return sum(1 for used_method, url in self.requests if used_method == method and re.search(path, url))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def environment(self) -> dict[str, str]:
        """Environment variables that direct huggingface_hub to this server."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": self.token,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def __enter__(self) -> LoopbackHub:
        self.server = LoopbackServer(("127.0.0.1", 0), type("Handler", (LoopbackHandler,), {"hub": self}))
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)


def account(name: str, role: str = "write", *, organizations: dict[str, str] | None = None, **fine_grained: Any) -> Any:
    """A response to /api/whoami-v2: the owner and role of a token, and the scopes of a fine-grained one."""
    token = {"displayName": "of-the-tests", "role": role, **({"fineGrained": fine_grained} if fine_grained else {})}
    orgs = [
        {"type": "org", "name": organization, "roleInOrg": role} for organization, role in (organizations or {}).items()
    ]
    return {"type": "user", "name": name, "orgs": orgs, "auth": {"type": "access_token", "accessToken": token}}
