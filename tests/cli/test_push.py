"""`orpo push-to-hub` in a process of its own, with the real huggingface_hub client, against a hub on loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub
from tiny_run import make_base, make_run

from orpo_cli.artifacts.merge import merge
from orpo_cli.recipe.schema import HubSection
from orpo_cli.rundir import RunDir

TOKEN = "hf_plantedSecret0123456789abcdef"
REPO = "me/tiny"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, base: Path) -> RunDir:
    return make_run(tmp_path_factory.mktemp("runs") / "tiny", base)


@pytest.fixture
def run(tmp_path: Path, finished: RunDir) -> RunDir:
    return RunDir(Path(shutil.copytree(finished.root, tmp_path / "run")))


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub(token=TOKEN) as hub:
        yield hub


def orpo(hub: LoopbackHub, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """`orpo ARGUMENTS` with the hub's environment; every output is searched for the token."""
    home = {"HF_HOME": "/nonexistent/hf", "HF_TOKEN_PATH": "/nonexistent/token"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, "-m", "orpo_cli", *map(str, arguments)],
        env={**inherited, **home, **hub.environment(), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert TOKEN not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def on_disk(run: RunDir, folder: Path) -> dict[str, bytes]:
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {**files, "README.md": run.card.read_bytes()}


def test_the_hub_holds_the_bytes_of_the_run_directory(hub, run):
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub.url}/{REPO}"
    there = hub.repos[REPO].files()
    there.pop(".gitattributes")
    assert there == on_disk(run, run.adapter)
    assert there["adapter_model.safetensors"] in hub.lfs.values()


def test_a_new_repository_is_private_unless_public_is_asked_for(hub, run):
    orpo(hub, "push-to-hub", run.root, REPO)
    orpo(hub, "push-to-hub", run.root, "me/open", "--public")
    assert [call["visibility"] for call in hub.create_calls] == ["private", "public"]
    assert (hub.repos[REPO].private, hub.repos["me/open"].private) == (True, False)


def test_a_private_push_into_a_public_repository_is_refused(hub, run):
    orpo(hub, "push-to-hub", run.root, REPO, "--public")
    before = hub.repos[REPO].files()
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert done.returncode == 2
    assert "--public" in done.stderr
    assert hub.repos[REPO].files() == before


def test_a_dry_run_lists_all_and_calls_nobody(hub, run):
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*")}
    done = orpo(hub, "push-to-hub", run.root, REPO, "--dry-run", "--json", HF_TOKEN="")
    assert done.returncode == 0, done.stderr
    assert hub.requests == []
    assert {path: path.stat().st_mtime_ns for path in run.root.rglob("*")} == before
    listed = json.loads(done.stdout)
    assert (listed["status"], listed["repo_id"], listed["private"]) == ("dry-run", REPO, True)
    orpo(hub, "push-to-hub", run.root, REPO)
    there = hub.repos[REPO].files()
    there.pop(".gitattributes")
    assert {file["path"]: file["size"] for file in listed["files"]} == {path: len(each) for path, each in there.items()}


def test_a_dry_run_for_people_names_every_file_in_full(hub, run):
    done = orpo(hub, "push-to-hub", run.root, REPO, "--dry-run")
    for path in run.adapter.iterdir():
        assert f"  {path.name}\n" in done.stdout
    assert "private" in done.stdout
    assert "not on the hub" in done.stderr  # the base: whoever loads the adapter needs it


def test_state_of_the_trainer_and_hidden_files_stay_here(hub, run):
    for name in ("training_args.bin", "optimizer.pt", "trainer_state.json", "rng_state_0.pth", ".cache"):
        (run.adapter / name).write_text(TOKEN)
    assert orpo(hub, "push-to-hub", run.root, REPO).returncode == 0
    assert not any(TOKEN.encode() in content for content in hub.repos[REPO].files().values())
    assert "training_args.bin" not in hub.repos[REPO].files()


def test_the_card_has_no_secret_of_the_recipe(hub, run):
    run.recipe.write_text(f"# training.hub_token={TOKEN}\ntraining:\n  hub_token: {TOKEN}\n  hub_token: plainSecret\n")
    assert orpo(hub, "push-to-hub", run.root, REPO).returncode == 0
    card = hub.repos[REPO].files()["README.md"].decode()
    assert "## Recipe" in card
    assert TOKEN not in card
    assert "plainSecret" not in card


def test_without_a_token_nothing_is_tried(hub, run):
    done = orpo(hub, "push-to-hub", run.root, REPO, HF_TOKEN="")
    assert done.returncode == 6
    assert "hf auth login" in done.stderr
    assert hub.requests == []


def test_a_wrong_token_exits_6_and_says_so(hub, run):
    done = orpo(hub, "push-to-hub", run.root, REPO, HF_TOKEN="hf_aWrongTokenAltogether", NO_COLOR="1")
    assert done.returncode == 6
    assert "401" in done.stderr
    assert "hf_aWrongTokenAltogether" not in done.stderr


@pytest.mark.parametrize(
    ("method", "path", "status", "word"),
    [
        ("POST", "/api/repos/create", 403, "write role"),
        ("POST", "/commit/main", 409, "changed at the same time"),
        ("POST", "/commit/main", 429, "Wait 7 seconds"),
        ("POST", "/commit/main", 500, "trouble"),
        ("POST", "/commit/main", None, "connection"),
        ("PUT", "/lfs/", 403, "403"),
    ],
)
def test_a_failure_exits_6_with_a_remedy_and_the_same_command_ends_it(hub, run, method, path, status, word):
    hub.fail(method, path, status=status, headers={"Retry-After": "7"})
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert done.returncode == 6, done.stderr
    assert word in done.stderr
    assert "continues where this one stopped" in done.stderr
    assert orpo(hub, "push-to-hub", run.root, REPO).returncode == 0
    assert (
        hub.repos[REPO].files()["adapter_model.safetensors"] == (run.adapter / "adapter_model.safetensors").read_bytes()
    )


def sharded(tmp_path: Path, base: Path) -> RunDir:
    """A run with a merged model of several files."""
    run = make_run(tmp_path / "sharded", base)
    merge(run.root, max_shard_size="100KB")
    assert len(list(run.merged.glob("*.safetensors"))) >= 3
    return run


def test_an_interrupted_push_is_repeated_without_sending_anything_twice(tmp_path, hub, base):
    run = sharded(tmp_path, base)
    hub.fail("PUT", "/lfs/", status=403, after=1, times=None)  # the first file arrives, no other does
    done = orpo(hub, "push-to-hub", run.root, REPO, "--what", "merged")
    assert done.returncode == 6
    assert len(hub.lfs) == 1
    assert set(hub.repos[REPO].files()) == {".gitattributes"}  # nothing half-pushed is visible
    already = set(hub.lfs)
    hub.heal()
    hub.requests.clear()
    assert orpo(hub, "push-to-hub", run.root, REPO, "--what", "merged").returncode == 0
    assert hub.count("PUT") == len(list(run.merged.glob("*.safetensors"))) - 1
    assert hub.count("PUT", next(iter(already))) == 0
    there = hub.repos[REPO].files()
    there.pop(".gitattributes")
    assert there == on_disk(run, run.merged)


def test_a_cut_connection_is_picked_up_by_the_client_itself(hub, run):
    hub.fail("PUT", "/lfs/", times=1)
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert done.returncode == 0, done.stderr
    assert hub.count("PUT") == 2
    assert (
        hub.repos[REPO].files()["adapter_model.safetensors"] == (run.adapter / "adapter_model.safetensors").read_bytes()
    )


@pytest.mark.slow
def test_connections_that_are_always_cut_exit_6(hub, run):
    hub.fail("PUT", "/lfs/", times=None)
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert done.returncode == 6
    assert "connection" in done.stderr
    hub.heal()
    assert orpo(hub, "push-to-hub", run.root, REPO).returncode == 0


def test_a_hub_that_is_not_there_exits_6_with_a_remedy(hub, run):
    with LoopbackHub() as gone:
        address = gone.url
    done = orpo(hub, "push-to-hub", run.root, REPO, HF_ENDPOINT=address)
    assert done.returncode == 6
    assert "network" in done.stderr


def test_pushing_twice_sends_nothing_and_makes_no_commit(hub, run):
    orpo(hub, "push-to-hub", run.root, REPO)
    commits = len(hub.repos[REPO].messages)
    hub.requests.clear()
    done = orpo(hub, "push-to-hub", run.root, REPO, "--json")
    assert json.loads(done.stdout)["status"] == "unchanged"
    assert hub.count("PUT") == 0
    assert len(hub.repos[REPO].messages) == commits


def test_a_card_written_by_hand_goes_up_as_it_is(hub, run):
    orpo(hub, "push-to-hub", run.root, REPO)
    run.card.write_text(run.card.read_text() + "\nMy own words.\n")
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert "by hand" in done.stderr
    assert hub.repos[REPO].files()["README.md"] == run.card.read_bytes()


def test_a_revision_and_a_message_reach_the_hub(hub, run):
    done = orpo(hub, "push-to-hub", run.root, REPO, "--revision", "try-2", "--commit-message", "second try")
    assert done.returncode == 0, done.stderr
    assert "adapter_model.safetensors" in hub.repos[REPO].files("try-2")
    assert set(hub.repos[REPO].files("main")) == {".gitattributes"}
    assert hub.repos[REPO].messages == ["second try"]


def test_the_repository_of_the_plan_is_the_default(tmp_path, hub, base):
    run = make_run(tmp_path / "planned", base, hub=HubSection(repo_id="me/planned", private=False))
    assert orpo(hub, "push-to-hub", run.root).returncode == 0
    assert hub.repos["me/planned"].private is False


@pytest.mark.parametrize("repo_id", ["no-namespace", "a/b/c", "me/bad name", "me/--x"])
def test_an_impossible_repository_name_exits_2(hub, run, repo_id):
    done = orpo(hub, "push-to-hub", run.root, "--dry-run", "--", repo_id)
    assert done.returncode == 2
    assert "NAMESPACE/NAME" in done.stderr


@pytest.mark.parametrize(("what", "word"), [("merged", "orpo merge"), ("model", "--what adapter"), ("gguf", "gguf")])
def test_what_the_run_does_not_hold_is_not_pushed(hub, run, what, word):
    done = orpo(hub, "push-to-hub", run.root, REPO, "--what", what)
    assert done.returncode == 2
    assert word in done.stderr
    assert hub.requests == []


def test_a_merge_of_another_adapter_is_not_pushed(tmp_path, hub, base):
    run = sharded(tmp_path, base)
    (run.adapter / "adapter_config.json").write_text((run.adapter / "adapter_config.json").read_text() + "\n")
    done = orpo(hub, "push-to-hub", run.root, REPO, "--what", "merged")
    assert done.returncode == 2
    assert "another adapter" in done.stderr


def test_a_pushed_model_loads_from_the_hub_with_plain_transformers(tmp_path, hub, base):
    run = make_run(tmp_path / "full", base, full=True)
    assert orpo(hub, "push-to-hub", run.root, REPO).returncode == 0
    code = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"model = AutoModelForCausalLM.from_pretrained('{REPO}'); AutoTokenizer.from_pretrained('{REPO}')\n"
        "print(sum(p.double().abs().sum().item() for p in model.parameters()))"
    )
    home = {"HF_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **hub.environment(), **home}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    from transformers import AutoModelForCausalLM

    local = AutoModelForCausalLM.from_pretrained(run.model)
    assert float(done.stdout) == pytest.approx(sum(p.double().abs().sum().item() for p in local.parameters()))
