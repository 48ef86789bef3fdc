"""`orpo push-to-hub` as a process, with the real huggingface_hub client, against a hub server on the loopback interface."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.loopback_hub import LoopbackHub, account
from support.tiny_run import make_base, make_run

from orpo_cli.merge.merge import merge
from orpo_cli.merge.merge_target import MergeRequest
from orpo_cli.recipe.schema import HubSection
from orpo_cli.rundir import RunDir

TOKEN = "hf_plantedSecret0123456789abcdef"
REPO = "me/tiny"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory, base: Path) -> RunDir:
    return make_run(tmp_path_factory.mktemp("runs") / "tiny", base)


@pytest.fixture
def run(tmp_path: Path, finished_run: RunDir) -> RunDir:
    return RunDir(Path(shutil.copytree(finished_run.root, tmp_path / "run")))


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub(token=TOKEN) as hub:
        yield hub


def orpo(hub: LoopbackHub, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `orpo ARGUMENTS` with the environment of ``hub``; check that no output contains the token."""
    home = {"HF_HOME": "/nonexistent/hf", "HF_TOKEN_PATH": "/nonexistent/token", "ORPO_HUB_PATIENCE": "4"}
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


def expected_files(run: RunDir, folder: Path) -> dict[str, bytes]:
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {**files, "README.md": run.card.read_bytes()}


def test_the_repository_has_the_same_bytes_as_the_run_directory(hub, run):
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub.url}/{REPO}"
    files = hub.repos[REPO].files()
    files.pop(".gitattributes")
    assert files == expected_files(run, run.adapter)
    assert files["adapter_model.safetensors"] in hub.lfs.values()


def test_a_new_repository_is_private_without_the_public_option(hub, run):
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


def test_a_dry_run_lists_all_files_and_makes_no_request(hub, run):
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*")}
    done = orpo(hub, "push-to-hub", run.root, REPO, "--dry-run", "--json", HF_TOKEN="")
    assert done.returncode == 0, done.stderr
    assert hub.requests == []
    assert {path: path.stat().st_mtime_ns for path in run.root.rglob("*")} == before
    listed = json.loads(done.stdout)
    assert (listed["status"], listed["repo_id"], listed["private"]) == ("dry-run", REPO, True)
    orpo(hub, "push-to-hub", run.root, REPO)
    files = hub.repos[REPO].files()
    files.pop(".gitattributes")
    assert {file["path"]: file["size"] for file in listed["files"]} == {path: len(each) for path, each in files.items()}


def test_a_dry_run_without_json_lists_every_file_name(hub, run):
    done = orpo(hub, "push-to-hub", run.root, REPO, "--dry-run")
    for path in run.adapter.iterdir():
        assert f"  {path.name}\n" in done.stdout
    assert "private" in done.stdout
    assert "not on the hub" in done.stderr  # the base, which is needed to load the adapter


def test_trainer_state_and_hidden_files_are_not_pushed(hub, run):
    for name in ("training_args.bin", "optimizer.pt", "trainer_state.json", "rng_state_0.pth", ".cache"):
        (run.adapter / name).write_text(TOKEN)
    assert orpo(hub, "push-to-hub", run.root, REPO).returncode == 0
    assert not any(TOKEN.encode() in content for content in hub.repos[REPO].files().values())
    assert "training_args.bin" not in hub.repos[REPO].files()


def test_the_card_contains_no_secret_of_the_recipe(hub, run):
    run.recipe.write_text(f"# training.hub_token={TOKEN}\ntraining:\n  hub_token: {TOKEN}\n  hub_token: plainSecret\n")
    assert orpo(hub, "push-to-hub", run.root, REPO).returncode == 0
    card = hub.repos[REPO].files()["README.md"].decode()
    assert "## Recipe" in card
    assert TOKEN not in card
    assert "plainSecret" not in card


def test_without_a_token_no_request_is_made(hub, run):
    done = orpo(hub, "push-to-hub", run.root, REPO, HF_TOKEN="")
    assert done.returncode == 7
    assert "hf auth login" in done.stderr
    assert hub.requests == []


def test_a_wrong_token_exits_7_without_showing_it(hub, run):
    done = orpo(hub, "push-to-hub", run.root, REPO, HF_TOKEN="hf_aWrongTokenAltogether", NO_COLOR="1")
    assert done.returncode == 7
    assert "401" in done.stderr
    assert "hf_aWrongTokenAltogether" not in done.stderr


TEMPORARY_ERRORS = [
    ("POST", "/commit/main", 409, "another commit came first (HTTP 409)"),
    ("POST", "/commit/main", 429, "the hub is busy (HTTP 429); trying again in 1 s"),
    ("POST", "/commit/main", 500, "the hub is busy (HTTP 500)"),
    ("POST", "/commit/main", None, "the connection broke"),
    ("GET", "/api/models/me/tiny", 503, "the hub is busy (HTTP 503)"),
    ("POST", "/api/repos/create", 500, "the hub is busy (HTTP 500)"),
    ("PUT", "/lfs/", 500, ""),
    ("PUT", "/lfs/", None, ""),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "status", "word"), TEMPORARY_ERRORS)
def test_a_temporary_hub_error_is_retried_and_no_file_is_sent_twice(hub, run, method, path, status, word):
    hub.fail(method, path, status=status, headers={"Retry-After": "1"} if status == 429 else {})
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert done.returncode == 0, done.stderr
    assert word in done.stderr
    assert_repository_equals(hub, REPO, run, run.adapter)
    assert hub.count("PUT") == (2 if method == "PUT" else 1)
    assert len(hub.repos[REPO].messages) == 1


PERMANENT_ERRORS = [
    ("GET", "/api/whoami-v2", 401, 7, "does not know this token", "hf auth login"),
    ("POST", "/api/repos/create", 403, 7, "may not write", "write role"),
    ("POST", "/commit/main", 401, 7, "does not know this token", "hf auth login"),
    ("POST", "/commit/main", 403, 7, "may not write", "write role"),
    ("POST", "/commit/main", 409, 6, "changed at the same time", "Try again"),
    ("POST", "/commit/main", 429, 6, "asks to wait 7 seconds", "ORPO_HUB_PATIENCE"),
    ("POST", "/commit/main", 500, 6, "the hub has a problem (HTTP 500)", "Try again in a few minutes"),
    ("POST", "/commit/main", None, 6, "the connection", "Check the network"),
    ("PUT", "/lfs/", 403, 7, "403", "write role"),
]


@pytest.mark.parametrize(("method", "path", "status", "exit_code", "word", "remedy"), PERMANENT_ERRORS)
def test_a_permanent_hub_error_has_its_exit_code_and_the_repeated_command_completes_the_push(
    hub, run, method, path, status, exit_code, word, remedy
):
    headers = {"Retry-After": "7"} if status == 429 else {}
    hub.fail(method, path, status=status, headers=headers, times=None)
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert done.returncode == exit_code, done.stderr
    for each in (word, remedy, "continues where this one stopped"):
        assert each in done.stderr
    sent = set(hub.lfs)
    hub.heal()
    hub.requests.clear()
    assert orpo(hub, "push-to-hub", run.root, REPO).returncode == 0
    assert_repository_equals(hub, REPO, run, run.adapter)
    assert hub.count("PUT") == len(set(hub.lfs) - sent)


def assert_repository_equals(hub: LoopbackHub, repo_id: str, run: RunDir, folder: Path, revision: str = "main") -> None:
    """The branch contains the bytes of the folder and the card, and no other file."""
    files = hub.repos[repo_id].files(revision)
    files.pop(".gitattributes")
    assert files == expected_files(run, folder)


def test_a_lost_response_makes_no_second_commit(hub, run):
    hub.fail("POST", "/commit/main", status=500, late=True)
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert done.returncode == 0, done.stderr
    assert len(hub.repos[REPO].messages) == 1
    assert_repository_equals(hub, REPO, run, run.adapter)
    assert json.loads(run.pushes.read_text())["repositories"][REPO]["main"]["commit"] == hub.repos[REPO].head("main")


def test_ctrl_c_exits_130_and_explains_how_to_continue(hub, run):
    hub.slow("POST", "/commit/main", 30)
    environment = {**os.environ, **hub.environment()}
    command = [sys.executable, "-m", "orpo_cli", "push-to-hub", str(run.root), REPO]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    ) as pushing:  # fmt: skip
        until = time.monotonic() + 100
        while not hub.count("POST", "/commit/main") and time.monotonic() < until:
            time.sleep(0.1)
        pushing.send_signal(signal.SIGINT)
        _, stderr = pushing.communicate(timeout=100)
    assert pushing.returncode == 130
    assert "continues where this one stopped" in stderr
    assert "Traceback" not in stderr


def test_a_slow_hub_is_waited_for_and_a_silent_one_times_out(hub, run):
    hub.slow("POST", "/commit/main", 2)
    assert orpo(hub, "push-to-hub", run.root, REPO).returncode == 0
    assert_repository_equals(hub, REPO, run, run.adapter)
    hub.slow("GET", "/api/models/me/tiny", 60, times=None)
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert done.returncode == 6
    assert "Check the network" in done.stderr


def make_sharded_run(tmp_path: Path, base: Path) -> RunDir:
    """A run with a merged model of several files."""
    run = make_run(tmp_path / "sharded", base)
    merge(MergeRequest(run.root, max_shard_size="100KB"))
    assert len(list(run.merged.glob("*.safetensors"))) >= 3
    return run


def test_a_repeated_push_sends_only_the_missing_files(tmp_path, hub, base):
    run = make_sharded_run(tmp_path, base)
    hub.fail("PUT", "/lfs/", status=403, after=1, times=None)  # the first file arrives, no other does
    done = orpo(hub, "push-to-hub", run.root, REPO, "--what", "merged")
    assert done.returncode == 7
    assert len(hub.lfs) == 1
    assert set(hub.repos[REPO].files()) == {".gitattributes"}  # nothing half-pushed is visible
    already = set(hub.lfs)
    hub.heal()
    hub.requests.clear()
    assert orpo(hub, "push-to-hub", run.root, REPO, "--what", "merged").returncode == 0
    assert hub.count("PUT") == len(list(run.merged.glob("*.safetensors"))) - 1
    assert hub.count("PUT", next(iter(already))) == 0
    files = hub.repos[REPO].files()
    files.pop(".gitattributes")
    assert files == expected_files(run, run.merged)


@pytest.mark.slow
def test_connections_that_always_break_exit_6(hub, run):
    hub.fail("PUT", "/lfs/", times=None)
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert done.returncode == 6
    assert "connection" in done.stderr
    hub.heal()
    assert orpo(hub, "push-to-hub", run.root, REPO).returncode == 0


def test_an_unreachable_hub_exits_6_with_a_remedy(hub, run):
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


def test_an_edited_card_is_pushed_unchanged(hub, run):
    orpo(hub, "push-to-hub", run.root, REPO)
    run.card.write_text(run.card.read_text() + "\nMy own words.\n")
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert "by hand" in done.stderr
    assert hub.repos[REPO].files()["README.md"] == run.card.read_bytes()


def test_revision_and_commit_message_are_used(hub, run):
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
def test_a_part_that_the_run_does_not_have_exits_2(hub, run, what, word):
    done = orpo(hub, "push-to-hub", run.root, REPO, "--what", what)
    assert done.returncode == 2
    assert word in done.stderr
    assert hub.requests == []


def test_a_merge_of_another_adapter_is_not_pushed(tmp_path, hub, base):
    run = make_sharded_run(tmp_path, base)
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


def test_all_parts_of_a_run_have_separate_paths(tmp_path, hub, base):
    run = make_sharded_run(tmp_path, base)
    gguf = run.export / "gguf"
    gguf.mkdir(parents=True)
    (gguf / "tiny-f16.gguf").write_bytes(b"GGUF" + bytes(100))
    (gguf / "Modelfile").write_text("FROM ./tiny-f16.gguf\n")
    assert orpo(hub, "push-to-hub", run.root, REPO, "--what", "all").returncode == 0
    files = hub.repos[REPO].files()
    files.pop(".gitattributes")
    adapter = {f"adapter/{path.name}": path.read_bytes() for path in run.adapter.iterdir() if path.name != "README.md"}
    expected = {**expected_files(run, run.merged), **adapter, **expected_files(run, gguf)}
    assert files == expected
    card = files["README.md"].decode()
    assert f'PeftModel.from_pretrained(model, "{REPO}", subfolder="adapter")' in card
    assert f"llama-cli --hf-repo {REPO} --hf-file tiny-f16.gguf" in card
    assert f"vllm serve {REPO}" in card
    assert orpo(hub, "push-to-hub", run.root, "me/some", "--what", "adapter", "--what", "gguf").returncode == 0
    assert {"adapter_model.safetensors", "tiny-f16.gguf"} <= set(hub.repos["me/some"].files())
    assert "config.json" not in hub.repos["me/some"].files()


def test_a_merged_model_is_not_pushed_next_to_an_adapter(tmp_path, hub, base):
    run = make_sharded_run(tmp_path, base)
    assert orpo(hub, "push-to-hub", run.root, REPO).returncode == 0
    done = orpo(hub, "push-to-hub", run.root, REPO, "--what", "merged")
    assert done.returncode == 7
    assert "side by side" in done.stderr
    done = orpo(hub, "push-to-hub", run.root, REPO, "--what", "adapter,merged", "--json")
    assert done.returncode == 0, done.stderr
    assert "adapter_config.json" in json.loads(done.stdout)["deleted"]
    files = hub.repos[REPO].files()
    assert "adapter_config.json" not in files
    assert {"adapter/adapter_config.json", "config.json"} <= set(files)


def test_patterns_select_files_and_a_pattern_without_match_exits_2(hub, run):
    done = orpo(
        hub, "push-to-hub", run.root, REPO, "--include", "*.safetensors", "--include", "*.json", "--exclude", "tok*"
    )
    assert done.returncode == 0, done.stderr
    assert "is not pushed" in done.stderr
    kept = set(hub.repos[REPO].files())
    assert kept == {".gitattributes", "adapter_config.json", "adapter_model.safetensors"}
    done = orpo(hub, "push-to-hub", run.root, REPO, "--exclude", "*.bin")
    assert done.returncode == 2
    assert "--exclude *.bin" in done.stderr


@pytest.mark.parametrize("path", ["README.md", "adapter_model.safetensors"])
def test_files_that_somebody_changed_are_overwritten_only_with_force(hub, run, path):
    orpo(hub, "push-to-hub", run.root, REPO)
    hub.edit(REPO, path, b"---\nlicense: mit\n---\nSomebody else's.\n")
    hub.requests.clear()
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert done.returncode == 7
    assert f"{path}: changed there since this run was pushed" in done.stderr
    assert "--force" in done.stderr
    assert hub.repos[REPO].files()[path].endswith(b"Somebody else's.\n")
    assert hub.count("PUT") == hub.count("POST", "/commit") == 0
    assert orpo(hub, "push-to-hub", run.root, REPO, "--force").returncode == 0
    assert_repository_equals(hub, REPO, run, run.adapter)


def test_existing_files_are_not_overwritten_and_other_files_are_kept(hub, run):
    hub.add(REPO, private=True)
    hub.edit(REPO, "notes.txt", b"mine")
    hub.edit(REPO, "README.md", b"my card")
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert done.returncode == 7
    assert "not from this run" in done.stderr
    done = orpo(hub, "push-to-hub", run.root, REPO, "--exclude", "README.md")
    assert done.returncode == 0, done.stderr
    assert hub.repos[REPO].files()["README.md"] == b"my card"
    assert hub.repos[REPO].files()["notes.txt"] == b"mine"


def test_after_a_concurrent_commit_the_push_is_repeated_on_top_of_it(hub, run):
    orpo(hub, "push-to-hub", run.root, REPO)
    run.write_run(steps=777)
    real = hub.repos[REPO].head

    def overtaken(revision):  # somebody commits between reading the repository and committing
        if hub.count("POST", "/preupload") == 2 and "notes.txt" not in hub.repos[REPO].branches["main"]:
            hub.edit(REPO, "notes.txt", b"not from this run")
        return real(revision)

    hub.repos[REPO].head = overtaken
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert done.returncode == 0, done.stderr
    assert "another commit came first (HTTP 412)" in done.stderr
    assert hub.repos[REPO].files()["notes.txt"] == b"not from this run"
    assert b"777 steps" in hub.repos[REPO].files()["README.md"]


def test_removed_files_are_deleted_in_the_repository_and_missing_ones_are_pushed_again(hub, run):
    (run.adapter / "old.txt").write_text("old")
    orpo(hub, "push-to-hub", run.root, REPO)
    (run.adapter / "old.txt").unlink()
    hub.edit(REPO, "adapter_config.json", None)
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert done.returncode == 0, done.stderr
    assert "removed there: old.txt" in done.stderr
    assert "pushed again: adapter_config.json" in done.stderr
    assert_repository_equals(hub, REPO, run, run.adapter)


def test_a_repeated_push_opens_no_second_pull_request(hub, run):
    hub.add("other/model")
    hub.edit("other/model", "notes.txt", b"not from this run")
    done = orpo(hub, "push-to-hub", run.root, "other/model", "--create-pr", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pull_request"] == f"{hub.url}/other/model/discussions/1"
    assert set(hub.repos["other/model"].files()) == {"notes.txt"}
    assert "adapter_model.safetensors" in hub.repos["other/model"].files("refs/pr/1")
    done = orpo(hub, "push-to-hub", run.root, "other/model", "--create-pr", "--json")
    assert json.loads(done.stdout)["status"] == "unchanged"
    assert list(hub.repos["other/model"].requests) == [1]
    assert hub.count("PUT") == 1
    assert orpo(hub, "push-to-hub", run.root, REPO, "--create-pr").returncode == 2  # there is no such repository


def test_a_tag_names_the_commit_and_moves_only_with_force(hub, run):
    assert orpo(hub, "push-to-hub", run.root, REPO, "--tag", "v1").returncode == 0
    first = hub.repos[REPO].head("main")
    assert hub.repos[REPO].tags == {"v1": first}
    assert orpo(hub, "push-to-hub", run.root, REPO, "--tag", "v1").returncode == 0
    hub.edit(REPO, "notes.txt", b"a commit in between")
    run.write_run(steps=777)
    assert orpo(hub, "push-to-hub", run.root, REPO).returncode == 0
    done = orpo(hub, "push-to-hub", run.root, REPO, "--tag", "v1")
    assert done.returncode == 7
    assert "--force" in done.stderr
    assert hub.repos[REPO].tags == {"v1": first}
    assert orpo(hub, "push-to-hub", run.root, REPO, "--tag", "v1", "--force").returncode == 0
    assert hub.repos[REPO].tags == {"v1": hub.repos[REPO].head("main")}


def test_a_read_only_token_is_refused_before_anything_is_created(hub, run):
    hub.whoami = account("me", "read")
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert done.returncode == 7
    assert "may read but not write" in done.stderr
    assert hub.repos == {}
    assert hub.count("POST") == 0


def test_without_token_details_from_the_hub_the_push_is_tried(hub, run):
    hub.whoami = None
    assert orpo(hub, "push-to-hub", run.root, REPO).returncode == 0


def make_gated_run(folder: Path, base: Path) -> RunDir:
    """A finished full run whose base is gated on the hub."""
    run = make_run(folder / "gated", base, full=True)
    plan = run.read_plan()
    on_hub = plan.model.model_copy(update={"model_name_or_path": "big/base"})
    run.plan.write_text(plan.model_copy(update={"model": on_hub}).to_json())
    return run


def test_the_card_has_the_license_of_the_base_and_a_gated_base_needs_confirmation(tmp_path, hub, base):
    run = make_gated_run(tmp_path, base)
    terms = {"license": "other", "license_name": "big-community", "license_link": "https://example.org/LICENSE"}
    hub.add("big/base", gated="manual", card_data=terms)
    done = orpo(hub, "push-to-hub", run.root, REPO, "--public")
    assert done.returncode == 2
    assert "--accept-base-license" in done.stderr
    assert REPO not in hub.repos
    done = orpo(hub, "push-to-hub", run.root, REPO, "--public", "--accept-base-license")
    assert done.returncode == 0, done.stderr
    card = hub.repos[REPO].files()["README.md"].decode()
    for word in ("license: other", "license_name: big-community", "accept its terms there", "these terms allow it"):
        assert word in card
    assert orpo(hub, "push-to-hub", run.root, "me/private").returncode == 0
    assert "license: other" in orpo(hub, "push-to-hub", run.root, REPO, "--dry-run").stdout


def test_truncated_weights_are_not_pushed(hub, run):
    complete = (run.adapter / "adapter_model.safetensors").read_bytes()
    (run.adapter / "adapter_model.safetensors").write_bytes(complete[:-10])
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert done.returncode == 2
    assert "is incomplete" in done.stderr
    assert hub.requests == []


def test_a_token_with_invalid_characters_is_not_shown(hub, run):
    for token in (f"{TOKEN}\x01x", f"{TOKEN}\u00e4"):
        done = orpo(hub, "push-to-hub", run.root, REPO, HF_TOKEN=token)
        assert done.returncode == 7, done.stderr
