"""Secrets of every kind in the environment of a run, in its files and in what servers say: none is in an output.

Each command runs once, with all secrets; then each of its outputs (files, standard output, standard error) is searched for every
secret as it is, and in the encodings of URLs, JSON and base64.
"""

from __future__ import annotations

import base64
import html
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from support.forked_orpo import Ended, run_forked
from support.loopback_hub import LoopbackHub
from support.loopback_server import LoopbackServer
from support.tiny import write_recipe

REPO = "me/tiny"
# Where each secret is. A name in capitals is an environment variable that no recipe uses.
SECRETS = {
    "HF_TOKEN": "hf_plantedEnvironment0123456789abcdef",
    "ACME, the variable of model.token": 'acme/planted"Sécret+1',
    "AWS_SECRET_ACCESS_KEY": "plantedAws/Secret+Key0123456789abcdefghij",
    "AWS_ACCESS_KEY_ID": "AKIAPLANTED012345678",
    "DATABASE_URL": "postgres://me:plantedDatabasePassword@db.example/x",
    "WANDB_API_KEY": "planted0123456789abcdef0123456789abcdef",
    "GITHUB_PAT": "planted'pat<&>with signs",
    "the token of hf auth login": "hf_plantedLogin0123456789abcdefghijk",
    "the password of an address": "plantedUrlPassword",
    "the signature of an address": "plantedSignature0123456789",
    "a variable with a signed token": "eyJhbGciOiJIUzI1NiJ9.eyJwbGFudGVkIjoiMSJ9.cGxhbnRlZA",
    "a git remote": "ghp_plantedGitRemote0123456789abcdefgh",
}
FAILING_MODEL = """
import base64, json, logging, os, warnings
from pathlib import Path
from urllib.parse import quote
from transformers import LlamaForCausalLM

class FailingLlama(LlamaForCausalLM):
    def forward(self, *arguments, **keywords):
        if Path("failing/metrics.jsonl").exists() and '"loss"' in Path("failing/metrics.jsonl").read_text():
            known = [*os.environ.values(), Path(os.environ["HF_HOME"], "token").read_text()]
            forms = [f(x) for x in (*known, Path(".git/config").read_text()) for f in (str, quote, json.dumps)]
            forms += [base64.b64encode(f"me:{x}".encode()).decode() for x in known]
            logging.getLogger("a.library").warning("read %s", forms)
            warnings.warn(f"read {forms}")
            raise RuntimeError(f"cannot go on: {forms}")
        return super().forward(*arguments, **keywords)
"""


def forms(secret: str) -> set[str]:
    """What to search for: the secret, its encodings, and the part of its base64 form that does not depend on what surrounds it."""
    texts = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), html.escape(secret)}
    texts |= {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]}
    for offset, unknown in enumerate((0, 2, 3)):
        texts.add(base64.b64encode(b"\0" * offset + secret.encode()).decode().rstrip("=")[unknown:-1])
    return texts


class DataServer(BaseHTTPRequestHandler):
    """Server that answers every request with the held-out pairs, or refuses and quotes the request."""

    pairs = b""

    def do_GET(self) -> None:
        if "refused" in self.path:
            self.send_error(403, f"no access to {self.path} with {self.headers}".replace("\r", " ").replace("\n", " "))
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.pairs)))
        self.end_headers()
        self.wfile.write(self.pairs)

    def log_message(self, *_: Any) -> None:
        pass


class Commands:
    """The commands, each run when it is first needed, with its streams."""

    def __init__(self, folder: Path, hub: LoopbackHub, port: int) -> None:
        self.folder, self.hub = folder, hub
        self.recipe = write_recipe(
            folder,
            steps=3,
            model={"token": "${ACME}"},
            training={"save_strategy": "steps", "save_steps": 1, "push_to_hub": True, "hub_strategy": "checkpoint"},
            hub={"repo_id": REPO},
        )
        DataServer.pairs = (folder / "heldout.jsonl").read_bytes()
        address, signature = (
            f"http://127.0.0.1:{port}/pairs.jsonl",
            f"X-Amz-Signature={SECRETS['the signature of an address']}",
        )
        with_password = f"http://me:{SECRETS['the password of an address']}@127.0.0.1:{port}/refused.jsonl?{signature}"
        self.arguments: dict[str, tuple[object, ...]] = {
            "plan": ("plan", self.recipe, "--show-origin"),
            "plan --json": ("plan", self.recipe, "--json"),
            "data": ("data", self.recipe, "--show", 2, "--html", folder / "page.html"),
            "a secret in an address": ("data", self.recipe, "--set", f"dataset.train.path={address}?{signature}", "--json"),
            "a variable in an address": ("data", self.recipe, "--set", "dataset.train.path=http://127.0.0.1/${SIGNED}.jsonl"),
            "a secret as a name": ("train", self.recipe, "--set", "name=${AWS_SECRET_ACCESS_KEY}"),
            "train": ("train", self.recipe),
            "a failing train": ("train", self.failing_recipe(), "--json"),
            "eval": ("eval", "run", "--data", f"{address}?{signature}"),
            "a failing eval": ("eval", "run", "--data", with_password, "--json"),
            "generate": ("generate", "run", "--compare", "-n", 2, "--max-new-tokens", 4),
            "a failing generate": ("generate", "run", "--prompts-from", with_password),
            "merge": ("merge", "run"),
            "export": ("export", "run"),
            "a failing push": ("push-to-hub", "run", "--what", "adapter,merged", "--json"),
            "push": ("push-to-hub", "run", "--what", "adapter,merged"),
        }  # fmt: skip
        self.ended: dict[str, Ended] = {}

    def failing_recipe(self) -> Path:
        """A recipe whose model fails in the second step and says all secrets that it finds."""
        model = self.folder / "failing-model"
        if not model.exists():
            model.mkdir()
            for path in (self.folder / "model").iterdir():
                (model / path.name).write_bytes(path.read_bytes())
            (model / "modeling_failing.py").write_text(FAILING_MODEL)
            config = json.loads((model / "config.json").read_text())
            code = {"AutoModelForCausalLM": "modeling_failing.FailingLlama"}
            (model / "config.json").write_text(json.dumps({**config, "auto_map": code}))
        recipe = json.loads(json.dumps(_read_yaml(self.recipe)))
        recipe["model"] = {"model_name_or_path": "failing-model", "token": "${ACME}", "trust_remote_code": True}
        recipe["training"] |= {"push_to_hub": False, "hub_strategy": None, "save_strategy": "no", "save_steps": None}
        path = self.folder / "failing.yaml"
        path.write_text(json.dumps({**recipe, "output_dir": "failing"}))
        return path

    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "OMP_NUM_THREADS") if name in os.environ}
        named = {name: secret for name, secret in SECRETS.items() if name.replace("_", "").isalpha() and name.isupper()}
        return {
            **kept,
            **self.hub.environment(),
            **named,
            "ACME": SECRETS["ACME, the variable of model.token"],
            "SIGNED": SECRETS["a variable with a signed token"],
            "HOME": str(self.folder / "home"),
            "HF_HOME": str(self.folder / "home" / "hf"),
            "ORPO_CACHE": str(self.folder / "cache"),
            "ORPO_HUB_PATIENCE": "2",
        }

    def run(self, name: str) -> Ended:
        """The ended command; those that it needs have run before."""
        needs = {"merge": ("train",), "export": ("merge",), "push": ("merge",), "a failing push": ("merge",)}
        for each in needs.get(name, ("train",) if "run" in self.arguments[name] else ()):
            self.run(each)
        if name not in self.ended:
            if name == "a failing push":
                sent = [secret for kind, secret in SECRETS.items() if "address" not in kind]
                said = quote(" ".join(sent), safe=" :/@'\"+<>&")
                self.hub.fail("POST", "/commit/", status=403, headers={"X-Error-Message": said}, times=None)
            self.ended[name] = run_forked(self.folder, self.environment(), *self.arguments[name])
            self.hub.clear_faults()
        return self.ended[name]


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    return dict(yaml.safe_load(path.read_text()))


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    folder = tmp_path_factory.mktemp("planted")
    server = LoopbackServer(("127.0.0.1", 0), DataServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with LoopbackHub(token=SECRETS["HF_TOKEN"]) as hub:
        (folder / "home" / "hf").mkdir(parents=True)
        (folder / "home" / "hf" / "token").write_text(SECRETS["the token of hf auth login"])
        (folder / ".git").mkdir()
        remote = f'[remote "origin"]\n\turl = https://x:{SECRETS["a git remote"]}@example.org/me/x.git\n'
        (folder / ".git" / "config").write_text(remote)
        yield Commands(folder, hub, server.server_address[1])
    server.shutdown()


def outputs(commands: Commands, name: str) -> Iterator[tuple[str, bytes]]:
    """The streams of a command and all files that exist after it, in the run directories, the caches and on the hub."""
    ended = commands.run(name)
    yield "standard output", ended.out.encode()
    yield "standard error", ended.err.encode()
    planted = {commands.folder / "home" / "hf" / "token", commands.folder / ".git" / "config"}
    for path in commands.folder.rglob("*"):
        if path.is_file() and path not in planted:
            yield str(path.relative_to(commands.folder)), path.read_bytes()
    for repository, repo in commands.hub.repos.items():
        yield from ((f"{repository}/{path}", content) for path, content in repo.files().items())


CODES = {
    "a secret in an address": 2, "a variable in an address": 2, "a secret as a name": 2, "a failing train": 1,
    "a failing eval": 4, "a failing generate": 4, "a failing push": 7,
}  # fmt: skip
QUICK = (
    "plan", "a secret in an address", "a variable in an address", "a secret as a name", "train", "a failing train", "eval",
    "a failing eval", "a failing generate",
)  # fmt: skip
SLOW = ("plan --json", "data", "generate", "merge", "export", "a failing push", "push")
NAMES = (*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW))


@pytest.mark.parametrize("name", NAMES)
def test_no_planted_secret_is_in_an_output(
    commands: Commands, name: str, record_property: Callable[[str, object], None]
) -> None:
    ended = commands.run(name)
    assert ended.code == CODES.get(name, 0), ended.err
    found = []
    count = 0
    needles = {kind: [form.encode() for form in forms(_needle(secret))] for kind, secret in SECRETS.items()}
    for output, content in outputs(commands, name):
        count += 1
        found += [f"{kind} in {output}" for kind, each in needles.items() if any(form in content for form in each)]
    outcome = {"campaign": "planted secrets", "case": f"{name}: {count} outputs", "cases": len(SECRETS), "problems": []}
    leaked = len({each.partition(" in ")[0] for each in found})
    record_property("outcome", {**outcome, "failures": leaked, "finished": None, "identical": None})
    assert count >= 2
    assert "\n".join(found) == ""


def _needle(secret: str) -> str:
    """The secret part of a secret: the password of a database address."""
    return secret.partition("://")[2].partition("@")[0].partition(":")[2] or secret


def test_the_failing_train_said_what_it_found(commands: Commands) -> None:
    """Otherwise the search above would prove nothing: the error, the log record and the traceback reached the outputs."""
    ended = commands.run("a failing train")
    run = json.loads((commands.folder / "failing" / "run.json").read_text())
    assert "cannot go on" in run["error"]
    assert "${AWS_SECRET_ACCESS_KEY}" in run["error"]
    assert "Traceback" in ended.err
    assert ended.err.count("${ACME}") > 3
