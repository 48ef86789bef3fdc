"""Hub datasets, read with the real clients from a local hub that serves some datasets and refuses others."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from support.data_sources import dataset_with_image
from support.loopback_server import LoopbackServer
from support.tiny import pairs

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLDER = "89abcdef0123456789abcdef0123456789abcdef"  # what the tag v1 of org/configs names


def jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(dataset: Dataset) -> bytes:
    file = io.BytesIO()
    dataset.to_parquet(file)
    return file.getvalue()


CONFIGS = b"""---
configs:
- config_name: en
  data_files: en.jsonl
- config_name: de
  data_files: de.jsonl
---
"""
FILES = {
    "README.md": b"---\nlicense: mit\n---\nPairs.\n",
    "train.jsonl": jsonl(pairs(4)),
    "test.jsonl": jsonl(pairs(2, start=9)),
}
REPOSITORIES = {
    ("data", COMMIT): FILES,
    ("broken", COMMIT): {"train.jsonl": jsonl(pairs(3)) + b'{"prompt": \n'},
    ("large", COMMIT): {"train.jsonl": jsonl([*pairs(2), {**pairs(1)[0], "chosen": "x" * (17 << 20)}])},
    ("configs", COMMIT): {"README.md": CONFIGS, "en.jsonl": jsonl(pairs(3)), "de.jsonl": jsonl(pairs(3, start=20))},
    ("images", COMMIT): {"train.parquet": parquet(dataset_with_image())},
    ("configs", OLDER): {"README.md": CONFIGS, "en.jsonl": jsonl(pairs(2, start=50)), "de.jsonl": jsonl(pairs(1))},
}
READ = """
import json, sys, time
import datasets  # so that the seconds are those of reading
from orpo_cli.data.sources.sample import sample_rows
from orpo_cli.data.sources.source import open_source
from orpo_cli.errors import OrpoError
from orpo_cli.recipe.schema import Source
answers = []
for options in json.loads(sys.argv[1]):
    source, notes, began = Source(**options), [], time.monotonic()
    try:
        with open_source(source, source.path, notes.append) as found:
            rows = [list(row) for row in sample_rows(found, source, 1).rows]
        answers.append({"rows": rows, "fingerprint": found.fingerprint, "location": found.location, "notes": notes})
    except OrpoError as error:
        answers.append({"exit_code": error.exit_code, "message": error.message, "remedy": error.remedy})
    answers[-1]["seconds"] = time.monotonic() - began
    answers[-1]["is_offline"] = datasets.config.HF_HUB_OFFLINE
print(json.dumps(answers, default=repr))
"""


class Hub(BaseHTTPRequestHandler):
    """What `datasets` asks of a hub to load a dataset of a few files."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        asked = re.fullmatch(r"/(?:api/)?datasets/org/(\w+)(?:/(resolve|tree|revision)/([^/]+))?(?:/(.+))?", path)
        if "/org/gated" in path:
            self.answer(403, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted.")
        elif "/org/none" in path:
            self.answer(401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found.")
        elif not asked:
            self.answer(404)
        else:
            name, kind, revision, file = asked.groups()
            commit = OLDER if revision in ("v1", OLDER) else COMMIT
            self.give(REPOSITORIES.get((name, commit), {}), commit, kind, file)

    def give(self, files: dict[str, bytes], commit: str, kind: str | None, file: str | None) -> None:
        if kind == "resolve" and file in files:
            body = files[file]
            self.answer(200, body, ETag=f'"{hashlib.sha1(body).hexdigest()}"', X_Repo_Commit=commit)
        elif kind == "tree" and file is None:
            self.json([{"type": "file", "path": name, "size": len(body), "oid": "0"} for name, body in files.items()])
        elif kind in (None, "revision"):
            self.json({"id": "org/data", "sha": commit, "siblings": [{"rfilename": name} for name in files]})
        else:
            self.answer(404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found.", X_Repo_Commit=commit)

    def json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

    do_HEAD = do_GET


@pytest.fixture
def hub() -> Iterator[LoopbackServer]:
    server = LoopbackServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def read(endpoint: str, home: Path, *sources: dict[str, Any]) -> list[dict[str, Any]]:
    """Read sources in a fresh process, since the clients take their settings at import."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "NO_PROXY": "*"}
    for name in ("HF_DATASETS_CACHE", "HF_HUB_CACHE", "HF_DATASETS_OFFLINE", "HF_TOKEN"):
        environment.pop(name, None)
    command = [sys.executable, "-c", READ, json.dumps(sources)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_a_hub_dataset_is_read_and_refusals_are_hub_errors(hub: LoopbackServer, tmp_path: Path) -> None:
    full, part, split, config, none, gated = read(
        f"http://127.0.0.1:{hub.server_port}",
        tmp_path,
        {"path": "org/data"},
        {"path": "org/data", "split": "test[1:]"},
        {"path": "org/data", "split": "dev"},
        {"path": "org/data", "name": "other"},
        {"path": "org/none"},
        {"path": "org/gated"},
    )
    assert full["rows"] == [[f"org/data/train:{number}", row] for number, row in enumerate(pairs(4), 1)]
    assert (full["fingerprint"], full["location"]) == (COMMIT, "hub:org/data")
    assert part["rows"] == [["org/data/test:2", pairs(2, start=9)[1]]]
    assert split["exit_code"] == 4
    assert "no split dev; it has train, test" in split["message"]
    assert config["exit_code"] == 4
    assert "other" in config["message"]
    assert none["exit_code"] == gated["exit_code"] == 7
    assert "org/none: Dataset 'org/none' doesn't exist" in none["message"]
    assert "gated" in gated["message"]
    assert "HF_TOKEN" in gated["remedy"]


def test_an_unreachable_hub_gives_the_cached_copy_or_a_fast_error(hub: LoopbackServer, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    read(endpoint, tmp_path, {"path": "org/data"})
    hub.shutdown()
    hub.server_close()
    cached, same, other, missing = read(
        endpoint,
        tmp_path,
        {"path": "org/data"},
        {"path": "org/data", "revision": COMMIT},
        {"path": "org/data", "revision": "v2"},
        {"path": "org/elsewhere"},
    )
    seconds = [answer["seconds"] for answer in (cached, same, other, missing)]
    assert max(seconds) < 20  # the retries of the clients would take 23 s per source
    assert not any(answer["is_offline"] for answer in (cached, same, other, missing))  # a setting of the whole process
    assert [row for _, row in cached["rows"]] == pairs(4)
    assert cached["fingerprint"] == COMMIT
    assert any("cached copy" in note for note in cached["notes"])
    assert len(same["rows"]) == 4
    assert other["exit_code"] == missing["exit_code"] == 6
    assert "may not be revision v2" in other["message"]
    assert "cannot be reached" in missing["message"]
    assert "hf download" in missing["remedy"]


def test_a_stream_downloads_rows_while_they_are_read(hub: LoopbackServer, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    stream = {"path": "org/data", "streaming": True, "max_samples": 2}
    first, sliced = read(endpoint, tmp_path, stream, {**stream, "split": "train[:1]"})
    assert first["rows"] == [[f"org/data/train:{number}", row] for number, row in enumerate(pairs(2), 1)]
    assert first["fingerprint"] == COMMIT
    assert sliced["exit_code"] == 4
    assert list(tmp_path.rglob("*.arrow")) == []  # no table was prepared
    hub.shutdown()
    hub.server_close()
    (silent,) = read(endpoint, tmp_path / "elsewhere", stream)
    assert silent["exit_code"] == 6


def test_an_image_of_a_hub_dataset_is_read_as_it_is_stored(hub: LoopbackServer, tmp_path: Path) -> None:
    images = {"path": "org/images"}
    for answer in read(f"http://127.0.0.1:{hub.server_port}", tmp_path, images, {**images, "streaming": True}):
        assert [row["images"] for _, row in answer["rows"]] == [[{"bytes": "b'tea'", "path": None}], []]


def test_the_requested_configuration_and_revision_are_read(hub: LoopbackServer, tmp_path: Path) -> None:
    source = {"path": "org/configs", "name": "en"}
    english, german, older, unnamed, unknown = read(
        f"http://127.0.0.1:{hub.server_port}",
        tmp_path,
        source,
        {**source, "name": "de", "split": "train[-1:]"},
        {**source, "revision": "v1"},
        {"path": "org/configs"},
        {**source, "name": "fr"},
    )
    assert [row for _, row in english["rows"]] == pairs(3)
    assert german["rows"] == [["org/configs:3", pairs(1, start=22)[0]]]
    assert [row for _, row in older["rows"]] == pairs(2, start=50)
    assert (english["fingerprint"], older["fingerprint"]) == (COMMIT, OLDER)
    assert unnamed["exit_code"] == 4
    assert unnamed["message"] == "org/configs: the dataset has several configurations: en, de."
    assert unknown["message"] == "org/configs: the dataset has no configuration 'fr', but en, de."


def test_a_broken_hub_dataset_is_a_data_error(hub: LoopbackServer, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    full, streamed, large, large_streamed = read(
        endpoint,
        tmp_path,
        *({"path": path, "streaming": each} for path in ("org/broken", "org/large") for each in (False, True)),
    )
    for each in (large, large_streamed):
        assert each["exit_code"] == 4
        assert each["message"].startswith("hub:org/large: split train: row 3: the row is larger than 16MiB")
    assert full["exit_code"] == streamed["exit_code"] == 4
    assert "org/broken" in full["message"]
    assert "org/broken: cannot be read after row" in streamed["message"]
