"""`orpo push-to-hub` with refusals, errors of the hub, interruptions and files of others: exit code, remedy and repeated push."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from support.loopback_hub import LoopbackHub, account
from support.push_cli import REPO, TOKEN, assert_repository_equals, expected_files, make_sharded_run, orpo

from orpo_cli.merging.merge_record import adapter_digests


def test_a_private_push_into_a_public_repository_is_refused(hub, run):
    orpo(hub, "push-to-hub", run.root, REPO, "--public")
    before = hub.repos[REPO].files()
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert done.returncode == 2
    assert "--public" in done.stderr
    assert hub.repos[REPO].files() == before


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
    pytest.param("POST", "/api/repos/create", 500, "the hub is busy (HTTP 500)", marks=pytest.mark.slow),
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
    pytest.param("POST", "/commit/main", 401, 7, "does not know this token", "hf auth login", marks=pytest.mark.slow),
    ("POST", "/commit/main", 403, 7, "may not write", "write role"),
    ("POST", "/commit/main", 409, 6, "changed at the same time", "Try again"),
    ("POST", "/commit/main", 429, 6, "asks to wait 7 seconds", "ORPO_HUB_PATIENCE"),
    pytest.param(
        "POST",
        "/commit/main",
        500,
        6,
        "the hub has a problem (HTTP 500)",
        "Try again in a few minutes",
        marks=pytest.mark.slow,
    ),
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
    hub.clear_faults()
    hub.requests.clear()
    assert orpo(hub, "push-to-hub", run.root, REPO).returncode == 0
    assert_repository_equals(hub, REPO, run, run.adapter)
    assert hub.count("PUT") == len(set(hub.lfs) - sent)


def test_a_lost_response_makes_no_second_commit(hub, run):
    hub.fail("POST", "/commit/main", status=500, response_lost=True)
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert done.returncode == 0, done.stderr
    assert len(hub.repos[REPO].messages) == 1
    assert_repository_equals(hub, REPO, run, run.adapter)
    assert json.loads(run.pushes.read_text())["repositories"][REPO]["main"]["commit"] == hub.repos[REPO].head("main")


@pytest.mark.parametrize(
    ("number", "request_", "seconds"),
    [
        (signal.SIGINT, ("POST", "/commit/main"), 30),
        (signal.SIGTERM, ("PUT", "/lfs/"), 5),  # a file is sent in another thread, which ends first
    ],
)
def test_a_signal_exits_130_and_explains_how_to_continue(hub, run, number, request_, seconds):
    hub.delay(*request_, seconds)
    environment = {**os.environ, **hub.environment()}
    command = [sys.executable, "-m", "orpo_cli", "push-to-hub", str(run.root), REPO]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    ) as pushing:  # fmt: skip
        until = time.monotonic() + 100
        while not hub.count(*request_) and time.monotonic() < until:
            time.sleep(0.1)
        pushing.send_signal(number)
        _, stderr = pushing.communicate(timeout=100)
    assert pushing.returncode == 130
    assert f"interrupted ({number.name})" in stderr
    assert "continues where this one stopped" in stderr
    assert "Traceback" not in stderr
    hub.clear_faults()
    assert orpo(hub, "push-to-hub", run.root, REPO).returncode == 0
    assert_repository_equals(hub, REPO, run, run.adapter)


def test_a_slow_hub_is_waited_for_and_a_silent_one_times_out(hub, run):
    hub.delay("POST", "/commit/main", 2)
    assert orpo(hub, "push-to-hub", run.root, REPO).returncode == 0
    assert_repository_equals(hub, REPO, run, run.adapter)
    hub.delay("GET", "/api/models/me/tiny", 60, times=None)
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert done.returncode == 6
    assert "Check the network" in done.stderr


def test_a_repeated_push_sends_only_the_missing_files(tmp_path, hub, base):
    run = make_sharded_run(tmp_path, base)
    hub.fail("PUT", "/lfs/", status=403, after=1, times=None)  # the first file arrives, no other does
    done = orpo(hub, "push-to-hub", run.root, REPO, "--what", "merged")
    assert done.returncode == 7
    assert len(hub.lfs) == 1
    assert set(hub.repos[REPO].files()) == {".gitattributes"}  # nothing half-pushed is visible
    already = set(hub.lfs)
    hub.clear_faults()
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
    hub.clear_faults()
    assert orpo(hub, "push-to-hub", run.root, REPO).returncode == 0


def test_an_unreachable_hub_exits_6_with_a_remedy(hub, run):
    with LoopbackHub() as gone:
        address = gone.url
    done = orpo(hub, "push-to-hub", run.root, REPO, HF_ENDPOINT=address)
    assert done.returncode == 6
    assert "network" in done.stderr


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


@pytest.mark.parametrize("path", ["README.md", "adapter_model.safetensors"])
def test_files_that_somebody_changed_are_overwritten_only_with_force(hub, run, path):
    orpo(hub, "push-to-hub", run.root, REPO)
    hub.edit_file(REPO, path, b"---\nlicense: mit\n---\nSomebody else's.\n")
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
    hub.edit_file(REPO, "notes.txt", b"mine")
    hub.edit_file(REPO, "README.md", b"my card")
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
            hub.edit_file(REPO, "notes.txt", b"not from this run")
        return real(revision)

    hub.repos[REPO].head = overtaken
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert done.returncode == 0, done.stderr
    assert "another commit came first (HTTP 412)" in done.stderr
    assert hub.repos[REPO].files()["notes.txt"] == b"not from this run"
    assert b"777 steps" in hub.repos[REPO].files()["README.md"]


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


def test_truncated_weights_are_not_pushed(hub, run):
    complete = (run.adapter / "adapter_model.safetensors").read_bytes()
    (run.adapter / "adapter_model.safetensors").write_bytes(complete[:-10])
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert done.returncode == 2
    assert "is damaged" in done.stderr
    assert hub.requests == []


def test_a_token_with_invalid_characters_is_not_shown(hub, run):
    for token in (f"{TOKEN}\x01x", f"{TOKEN}\u00e4"):
        done = orpo(hub, "push-to-hub", run.root, REPO, HF_TOKEN=token)
        assert done.returncode == 7, done.stderr


def test_gguf_files_of_an_earlier_adapter_are_not_pushed(hub, run):
    gguf = run.export / "gguf"
    gguf.mkdir(parents=True)
    (gguf / "tiny-f16.gguf").write_bytes(b"GGUF" + bytes(100))
    origin = {**adapter_digests(run.adapter), "base": "somewhere"}
    (gguf / "export.json").write_text(json.dumps({"verified": True, "origin": origin}))
    assert orpo(hub, "push-to-hub", run.root, REPO, "--what", "gguf", "--dry-run").returncode == 0
    config = run.adapter / "adapter_config.json"
    config.write_text(config.read_text() + "\n")
    for what in ("gguf", "all"):
        done = orpo(hub, "push-to-hub", run.root, REPO, "--what", what, "--dry-run")
        assert done.returncode == 2
        assert "another adapter" in done.stderr
        assert "--format gguf --overwrite" in done.stderr
