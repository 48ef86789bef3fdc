"""A hub on loopback that the real huggingface_hub client pushes to and downloads from; it keeps every byte.

Speaks what huggingface_hub 2.4 calls for models with HF_HUB_DISABLE_XET=1: whoami, create, branch, tag, refs, info, tree,
validate-yaml, preupload, LFS batch + PUT + verify, commit (NDJSON, on a parent, as a pull request), discussions, resolve.
``fail`` injects faults, ``slow`` delays, ``edit`` is somebody else. Nothing here imports the client.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from typing import Any

from support.hub_repository import LFS_SUFFIXES, Repo, Stored
from support.loopback_handler import _Handler


@dataclass
class Fault:
    """Answers ``status`` (or cuts the connection where it is None) to matching requests number ``after``+1 and on.

    ``late``: the request is done all the same, and the answer lost. ``delay``: it is done, after so many seconds.
    """

    method: str
    path: str  # regular expression, searched
    status: int | None
    headers: dict[str, str]
    after: int
    times: int | None  # None: for ever
    late: bool = False
    delay: float = 0.0
    seen: int = 0
    done: int = 0

    def strikes(self, method: str, path: str) -> bool:
        if method != self.method or not re.search(self.path, path):
            return False
        self.seen += 1
        if self.seen <= self.after or (self.times is not None and self.done >= self.times):
            return False
        self.done += 1
        return True


class LoopbackHub:
    """``with LoopbackHub(token="hf_…") as hub:`` then point HF_ENDPOINT at ``hub.url``."""

    def __init__(self, token: str = "hf_loopbackTokenForTests") -> None:
        self.token = token
        self.whoami: dict[str, Any] | None = account("me")
        self.repos: dict[str, Repo] = {}
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
        late: bool = False,
    ) -> None:
        """Answer ``status`` to matching requests, or cut the connection half-way through the body where it is None."""
        self.faults.append(Fault(method, path, status, headers or {}, after, times, late))

    def slow(self, method: str, path: str, seconds: float, *, times: int | None = 1) -> None:
        """Answer matching requests so much later."""
        self.faults.append(Fault(method, path, None, {}, 0, times, delay=seconds))

    def add(self, repo_id: str, **repo: Any) -> Repo:
        """A repository that is there already."""
        self.repos[repo_id] = Repo(**{"private": False, **repo})
        return self.repos[repo_id]

    def edit(self, repo_id: str, path: str, content: bytes | None, revision: str = "main") -> str:
        """Somebody else's commit: a file changed, or removed (None)."""
        repo = self.repos[repo_id]
        files = {name: each for name, each in repo.branches[revision].items() if name != path}
        if content is not None:
            lfs = path.endswith(LFS_SUFFIXES)
            files[path] = Stored(content, lfs)
        return repo.advance(revision, files)

    def heal(self) -> None:
        self.faults.clear()

    def count(self, method: str, path: str = "") -> int:
        return sum(1 for seen, where in self.requests if seen == method and re.search(path, where))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def environment(self) -> dict[str, str]:
        """What the client's process needs in its environment to talk to this hub and to no other."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": self.token,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def __enter__(self) -> LoopbackHub:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)


def account(name: str, role: str = "write", *, organizations: dict[str, str] | None = None, **fine_grained: Any) -> Any:
    """What /api/whoami-v2 says of a token: its owner, role, and the scopes of a fine-grained one."""
    token = {"displayName": "of-the-tests", "role": role, **({"fineGrained": fine_grained} if fine_grained else {})}
    orgs = [{"type": "org", "name": each, "roleInOrg": its} for each, its in (organizations or {}).items()]
    return {"type": "user", "name": name, "orgs": orgs, "auth": {"type": "access_token", "accessToken": token}}
