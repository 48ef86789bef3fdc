"""`orpo push-to-hub` as a process, with the real huggingface_hub client, against a hub server on the loopback interface."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support.push_cli import (
    REPO,
    TOKEN,
    assert_repository_equals,
    expected_files,
    make_gated_run,
    make_sharded_run,
    orpo,
)
from support.tiny_run import make_run

from orpo_cli.recipe.schema import HubSection


def test_the_repository_has_the_same_bytes_as_the_run_directory(hub, run):
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub.url}/{REPO}"
    files = hub.repos[REPO].files()
    files.pop(".gitattributes")
    assert files == expected_files(run, run.adapter)
    assert files["adapter_model.safetensors"] in hub.lfs.values()


@pytest.mark.parametrize("on_hub", ["big/base", None])
def test_a_pushed_adapter_names_a_base_on_the_hub_and_no_path(hub, run, on_hub):
    plan = run.read_plan()
    if on_hub:
        model = plan.model.model_copy(update={"model_name_or_path": on_hub})
        run.plan.write_text(plan.model_copy(update={"model": model}).to_json())
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert done.returncode == 0, done.stderr
    files = hub.repos[REPO].files()
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == on_hub
    assert (b"the base is not on the hub" in files["README.md"]) == (on_hub is None)
    assert not [
        path
        for path, content in files.items()
        if path != "README.md" and plan.model.model_name_or_path.encode() in content
    ]
    again = orpo(hub, "push-to-hub", run.root, REPO, "--json")
    assert json.loads(again.stdout)["status"] == "unchanged"


def test_a_new_repository_is_private_without_the_public_option(hub, run):
    orpo(hub, "push-to-hub", run.root, REPO)
    orpo(hub, "push-to-hub", run.root, "me/open", "--public")
    assert [call["visibility"] for call in hub.create_calls] == ["private", "public"]
    assert (hub.repos[REPO].private, hub.repos["me/open"].private) == (True, False)


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


def test_an_edited_card_that_is_not_utf_8_is_an_error_before_anything_is_sent(hub, run):
    run.card.write_text("# Für Ärzte\n", encoding="latin-1")
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert done.returncode == 2
    assert "README.md is not UTF-8" in done.stderr
    assert "Traceback" not in done.stderr
    assert REPO not in hub.repos


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
    adapter = expected_files(run, run.adapter)
    adapter = {f"adapter/{path}": content for path, content in adapter.items() if path != "README.md"}
    expected = {**expected_files(run, run.merged), **adapter, **expected_files(run, gguf)}
    assert files == expected
    card = files["README.md"].decode()
    assert f'PeftModel.from_pretrained(model, "{REPO}", subfolder="adapter")' in card
    assert f"llama-cli --hf-repo {REPO} --hf-file tiny-f16.gguf" in card
    assert f"vllm serve {REPO}" in card
    assert orpo(hub, "push-to-hub", run.root, "me/some", "--what", "adapter", "--what", "gguf").returncode == 0
    assert {"adapter_model.safetensors", "tiny-f16.gguf"} <= set(hub.repos["me/some"].files())
    assert "config.json" not in hub.repos["me/some"].files()


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


def test_removed_files_are_deleted_in_the_repository_and_missing_ones_are_pushed_again(hub, run):
    (run.adapter / "old.txt").write_text("old")
    orpo(hub, "push-to-hub", run.root, REPO)
    (run.adapter / "old.txt").unlink()
    hub.edit_file(REPO, "adapter_config.json", None)
    done = orpo(hub, "push-to-hub", run.root, REPO)
    assert done.returncode == 0, done.stderr
    assert "removed there: old.txt" in done.stderr
    assert "pushed again: adapter_config.json" in done.stderr
    assert_repository_equals(hub, REPO, run, run.adapter)


def test_a_repeated_push_opens_no_second_pull_request(hub, run):
    hub.add("other/model")
    hub.edit_file("other/model", "notes.txt", b"not from this run")
    done = orpo(hub, "push-to-hub", run.root, "other/model", "--create-pr", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pull_request"] == f"{hub.url}/other/model/discussions/1"
    assert set(hub.repos["other/model"].files()) == {"notes.txt"}
    assert "adapter_model.safetensors" in hub.repos["other/model"].files("refs/pr/1")
    done = orpo(hub, "push-to-hub", run.root, "other/model", "--create-pr", "--json")
    assert json.loads(done.stdout)["status"] == "unchanged"
    assert list(hub.repos["other/model"].pull_requests) == [1]
    assert hub.count("PUT") == 1
    assert orpo(hub, "push-to-hub", run.root, REPO, "--create-pr").returncode == 2  # there is no such repository


def test_a_tag_names_the_commit_and_moves_only_with_force(hub, run):
    assert orpo(hub, "push-to-hub", run.root, REPO, "--tag", "v1").returncode == 0
    first = hub.repos[REPO].head("main")
    assert hub.repos[REPO].tags == {"v1": first}
    assert orpo(hub, "push-to-hub", run.root, REPO, "--tag", "v1").returncode == 0
    hub.edit_file(REPO, "notes.txt", b"a commit in between")
    run.write_run(steps=777)
    assert orpo(hub, "push-to-hub", run.root, REPO).returncode == 0
    done = orpo(hub, "push-to-hub", run.root, REPO, "--tag", "v1")
    assert done.returncode == 7
    assert "--force" in done.stderr
    assert hub.repos[REPO].tags == {"v1": first}
    assert orpo(hub, "push-to-hub", run.root, REPO, "--tag", "v1", "--force").returncode == 0
    assert hub.repos[REPO].tags == {"v1": hub.repos[REPO].head("main")}


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
