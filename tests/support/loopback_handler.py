"""Request handler of the loopback hub: the HTTP endpoints for models that huggingface_hub 2.4 calls without Xet.

These are whoami, create, branch, tag, refs, info, tree, validate-yaml, preupload, LFS batch, PUT and verify, commit (NDJSON, on a
parent, as a pull request), discussions and resolve.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from support.hub_repository import LFS_SIZE, LFS_SUFFIXES, HubRepository, StoredFile

if TYPE_CHECKING:
    from support.loopback_hub import Fault, LoopbackHub


class LoopbackHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    ROUTES = (
        ("GET", r"^/api/whoami-v2$", "who"),
        ("GET", r"^/api/models/(?P<id>[^/]+/[^/]+)/refs$", "refs"),
        ("GET", r"^/api/models/(?P<id>[^/]+/[^/]+)/discussions$", "discussions"),
        ("POST", r"^/api/models/(?P<id>[^/]+/[^/]+)/tag/(?P<rev>[^/]+)$", "tag"),
        ("DELETE", r"^/api/models/(?P<id>[^/]+/[^/]+)/tag/(?P<rev>[^/]+)$", "untag"),
        ("POST", r"^/api/repos/create$", "create"),
        ("POST", r"^/api/validate-yaml$", "validate_yaml"),
        ("GET", r"^/api/models/(?P<id>[^/]+/[^/]+)$", "info"),
        ("GET", r"^/api/models/(?P<id>[^/]+/[^/]+)/revision/(?P<rev>[^/]+)$", "info"),
        ("GET", r"^/api/models/(?P<id>[^/]+/[^/]+)/tree/(?P<rev>[^/]+)(?:/.*)?$", "tree"),
        ("POST", r"^/api/models/(?P<id>[^/]+/[^/]+)/preupload/(?P<rev>[^/]+)$", "preupload"),
        ("POST", r"^/api/models/(?P<id>[^/]+/[^/]+)/branch/(?P<rev>[^/]+)$", "branch"),
        ("POST", r"^/api/models/(?P<id>[^/]+/[^/]+)/commit/(?P<rev>[^/]+)$", "commit"),
        ("POST", r"^/(?P<id>[^/]+/[^/]+)\.git/info/lfs/objects/batch$", "lfs_batch"),
        ("PUT", r"^/lfs/(?P<oid>[0-9a-f]{64})$", "lfs_put"),
        ("POST", r"^/lfs/verify$", "lfs_verify"),
        ("HEAD", r"^/(?P<id>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<file>.+)$", "resolve"),
        ("GET", r"^/(?P<id>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<file>.+)$", "resolve"),
    )

    def serve(self) -> None:
        path = urlsplit(self.path).path
        with self.hub.lock:
            self.hub.requests.append((self.command, path))
            fault = next((each for each in self.hub.faults if each.matches(self.command, path)), None)
        if fault is not None and fault.delay:
            time.sleep(fault.delay)
            fault = None
        if fault is not None and fault.status is None and not fault.response_lost:
            self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        body = self._body()
        if fault is not None and fault.response_lost:
            self.lost = fault
        elif fault is not None:
            self.answer(fault.status, {"error": f"injected {fault.status}"}, fault.headers)
            return
        signed_upload = (
            path.startswith("/lfs/") and self.command == "PUT"
        )  # as with S3: the signed URL is the permission
        if not signed_upload and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self.answer(401, {"error": "Invalid username or password."})
            return
        for method, pattern, name in self.ROUTES:
            match = re.match(pattern, path)
            if method == self.command and match:
                with self.hub.lock:
                    getattr(self, name)(body, **{key: unquote(value) for key, value in match.groupdict().items()})
                return
        self.answer(404, {"error": f"no route for {self.command} {path}"})

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    lost: Fault | None = None

    def answer(self, status: int | None, value: Any, headers: dict[str, str] | None = None) -> None:
        if self.lost is not None:
            status, value, headers, self.lost = self.lost.status, {"error": "the response is lost"}, {}, None
            if status is None:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status or 200)
        for name, text in {
            "Content-Length": str(len(content)),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def repo(self, repo_id: str) -> HubRepository | None:
        repo = self.hub.repos.get(repo_id)
        if repo is None:
            self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        return repo

    def create(self, body: bytes) -> None:
        call = json.loads(body)
        self.hub.create_calls.append(call)
        repo_id = f"{call['organization']}/{call['name']}"
        url = {"url": f"{self.hub.url}/{repo_id}"}
        if repo_id in self.hub.repos:
            self.answer(409, {**url, "error": "You already created this model repo"})
            return
        repo = self.hub.repos[repo_id] = HubRepository(private=call.get("visibility") == "private")
        repo.add_commit(
            "main", {".gitattributes": StoredFile(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", lfs=False)}
        )
        self.answer(200, url)

    def validate_yaml(self, body: bytes) -> None:
        front_matter = re.match(r"---\n.*?\n---\n", json.loads(body)["content"], re.DOTALL)
        if front_matter:
            self.answer(200, {"errors": [], "warnings": []})
        else:
            self.answer(400, {"errors": [{"message": "no front matter"}], "warnings": []})

    def info(self, body: bytes, id: str, rev: str = "main") -> None:
        repo = self.repo(id)
        if repo is None:
            return
        files = repo.files_at(rev)
        if files is None:
            self.answer(404, {"error": f"Invalid rev id: {rev}"}, {"X-Error-Code": "RevisionNotFound"})
            return
        siblings = [{"rfilename": path} for path in files]
        facts = {"id": id, "sha": repo.head(rev), "private": repo.private, "siblings": siblings, "tags": []}
        if repo.card_data is not None:
            facts["cardData"] = repo.card_data
        self.answer(200, {**facts, "gated": repo.gated})

    def tree(self, body: bytes, id: str, rev: str) -> None:
        repo = self.repo(id)
        if repo is None:
            return
        entries = []
        for path, stored in (repo.files_at(rev) or {}).items():
            entry = {"type": "file", "path": path, "size": len(stored.content), "oid": stored.blob_id}
            if stored.lfs:
                entry["lfs"] = {"oid": stored.sha256, "size": len(stored.content), "pointerSize": 130}
            entries.append(entry)
        self.answer(200, entries)

    def branch(self, body: bytes, id: str, rev: str) -> None:
        repo = self.repo(id)
        if repo is None:
            return
        if rev in repo.branches:
            self.answer(409, {"error": f"Reference already exists: {rev}"})
            return
        repo.branches[rev], repo.heads[rev] = dict(repo.branches["main"]), repo.heads["main"]
        self.answer(201, {})

    def who(self, body: bytes) -> None:
        if self.hub.whoami is None:
            self.answer(404, {"error": "Not found"})
        else:
            self.answer(200, self.hub.whoami)

    def refs(self, body: bytes, id: str) -> None:
        repo = self.repo(id)
        if repo is None:
            return
        names = {"branches": ("heads", {name: repo.heads[name] for name in repo.branches if "/" not in name}),
                 "tags": ("tags", repo.tags)}  # fmt: skip
        answer: dict[str, Any] = {
            kind: [
                {"name": name, "ref": f"refs/{where}/{name}", "targetCommit": commit} for name, commit in each.items()
            ]
            for kind, (where, each) in names.items()
        }
        self.answer(200, {**answer, "converts": [], "pullRequests": []})

    def tag(self, body: bytes, id: str, rev: str) -> None:
        repo = self.repo(id)
        if repo is None:
            return
        name = json.loads(body)["tag"]
        if name in repo.tags:
            self.answer(409, {"error": f"Reference already exists: {name}"})
            return
        repo.tags[name] = repo.head(rev)
        self.answer(200, {})

    def untag(self, body: bytes, id: str, rev: str) -> None:
        repo = self.repo(id)
        if repo is None:
            return
        del repo.tags[rev]
        self.answer(200, {})

    def discussions(self, body: bytes, id: str) -> None:
        repo = self.repo(id)
        if repo is None:
            return
        found = [
            {"num": number, "title": title, "status": "open", "isPullRequest": True, "author": {"name": "me"},
             "createdAt": "2025-01-01T00:00:00.000Z", "repo": {"name": id, "type": "model"}}
            for number, title in repo.pull_requests.items()
        ]  # fmt: skip
        self.answer(200, {"count": len(found), "start": 0, "discussions": found})

    def preupload(self, body: bytes, id: str, rev: str) -> None:
        repo = self.repo(id)
        if repo is None:
            return
        answers = []
        for file in json.loads(body)["files"]:
            lfs = file["path"].endswith(LFS_SUFFIXES) or file["size"] > LFS_SIZE
            answer = {"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            stored = (repo.files_at(rev) or {}).get(file["path"])
            if stored is not None:
                answer["oid"] = stored.sha256 if stored.lfs else stored.blob_id
            answers.append(answer)
        self.answer(200, {"files": answers})

    def lfs_batch(self, body: bytes, id: str) -> None:
        objects = []
        for each in json.loads(body)["objects"]:
            if each["oid"] not in self.hub.lfs:
                upload, verify = {"href": f"{self.hub.url}/lfs/{each['oid']}"}, {"href": f"{self.hub.url}/lfs/verify"}
                each = {**each, "actions": {"upload": upload, "verify": verify}}
            objects.append(each)
        self.answer(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self.answer(400, {"error": "the content does not have this sha256"})
            return
        self.hub.lfs[oid] = body
        self.answer(200, {})

    def lfs_verify(self, body: bytes) -> None:
        asked = json.loads(body)
        content = self.hub.lfs.get(asked["oid"])
        self.answer(200 if content is not None and len(content) == asked["size"] else 422, {})

    def commit(self, body: bytes, id: str, rev: str) -> None:
        repo = self.repo(id)
        if repo is None:
            return
        if rev not in repo.branches:
            self.answer(404, {"error": f"Invalid rev id: {rev}"}, {"X-Error-Code": "RevisionNotFound"})
            return
        files, summary = dict(repo.branches[rev]), ""
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                summary = value["summary"]
                if value.get("parentCommit") not in (None, repo.head(rev)):
                    self.answer(412, {"error": "A commit has happened since. Please refresh and try again."})
                    return
            elif entry["key"] == "file":
                files[value["path"]] = StoredFile(base64.b64decode(value["content"]), lfs=False)
            elif entry["key"] == "lfsFile":
                if value["oid"] not in self.hub.lfs:
                    self.answer(400, {"error": f"LFS object {value['oid']} was not uploaded"})
                    return
                files[value["path"]] = StoredFile(self.hub.lfs[value["oid"]], lfs=True)
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
            else:
                self.answer(400, {"error": f"unknown entry {entry['key']}"})
                return
        repo.messages.append(summary)
        answer = {"success": True}
        if "create_pr" in parse_qs(urlsplit(self.path).query):
            number = len(repo.pull_requests) + 1
            repo.pull_requests[number] = summary
            rev = f"refs/pr/{number}"
            answer["pullRequestUrl"] = f"{self.hub.url}/{id}/discussions/{number}"
        commit = repo.add_commit(rev, files)
        url = f"{self.hub.url}/{id}/commit/{commit}"
        self.answer(200, {**answer, "commitUrl": url, "commitOid": commit})

    def resolve(self, body: bytes, id: str, rev: str, file: str) -> None:
        repo = self.repo(id)
        if repo is None:
            return
        stored = (repo.files_at(rev) or {}).get(file)
        if stored is None:
            self.answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        etag = stored.sha256 if stored.lfs else stored.blob_id
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": repo.head(rev), "Content-Type": "application/octet-stream"}
        if stored.lfs:
            headers |= {"X-Linked-ETag": f'"{etag}"', "X-Linked-Size": str(len(stored.content))}
        self.answer(200, stored.content, headers)

    def log_message(self, format: str, *arguments: object) -> None:
        pass
