"""`orpo init --data`: the columns of a file, found by their names and values."""

import json

import pytest
import yaml

from orpo_cli.recipe.load import load_recipe

RENAMED = [{"question": f"What is {n}?", "good_answer": f"It is {n}.", "bad_answer": "No."} for n in range(8)]


def write_rows(path, *prompts, chosen="chosen", rejected="rejected"):
    """Eight pairs with texts in the columns ``prompts``."""
    rows = [
        {**{name: f"What is {name} number {n}?" for name in prompts}, chosen: f"It is {n}.", rejected: "I do not know."}
        for n in range(8)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("name", ["votes.jsonl", "votes [v1].jsonl"])
@pytest.mark.parametrize("shipped", [(), ("--from", "quickstart")])
def test_init_finds_the_columns_of_a_file(shipped, name, tmp_path, orpo_here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in RENAMED))
    done = orpo_here("init", "mine", *shipped, "--data", name)
    assert done.returncode == 0, done.stderr
    assert "columns: {prompt: question, chosen: good_answer, rejected: bad_answer}" in done.stderr
    (source,) = load_recipe("mine.yaml").recipe.dataset.train
    assert source.path == name
    assert source.columns == {"prompt": "question", "chosen": "good_answer", "rejected": "bad_answer"}


def test_init_maps_no_columns_of_a_file_in_a_known_format(tmp_path, orpo_here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "Why?", "chosen": "So.", "rejected": "No."}\n')
    done = orpo_here("init", "mine", "--data", "pairs.jsonl")
    assert "warning" not in done.stderr
    assert load_recipe("mine.yaml").recipe.dataset.train[0].columns == {}


@pytest.mark.parametrize(
    "name", ["conversation", "conversations", "messages", "input", "query", "dialogue", "text", "context"]
)
def test_init_maps_a_prompt_column_of_another_name(name, tmp_path, orpo_here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "pairs.jsonl", name)
    done = orpo_here("init", "mine", "--data", "pairs.jsonl")
    assert done.returncode == 0, done.stderr
    assert f"by the names in pairs.jsonl: columns: {{prompt: {name}}}" in done.stderr
    assert "warning" not in done.stderr
    assert load_recipe("mine.yaml").recipe.dataset.train[0].columns == {"prompt": name}


@pytest.mark.parametrize(
    ("columns", "others", "mapping", "message"),
    [
        (("query", "request"), {"chosen": "good", "rejected": "bad"}, {"prompt": "query", "chosen": "good", "rejected": "bad"},
         "warning: pairs.jsonl: query is taken as the prompt, but it may also be request."),
        (("input", "instruction"), {"chosen": "good", "rejected": "bad"}, {"chosen": "good", "rejected": "bad"},
         "used under its own name: input, instruction"),
        (("foo",), {}, {"prompt": "foo"}, "warning: pairs.jsonl: foo is taken as the prompt, by what it holds and not by its name."),
        (("context", "question"), {}, {}, "pairs.jsonl, format alpaca: uses the columns question, chosen, rejected; not used: context"),
        ((), {}, {}, "uses the columns chosen, rejected; no column is the prompt, so it is the common start"),
    ],
)  # fmt: skip
def test_init_says_which_columns_it_takes(columns, others, mapping, message, tmp_path, orpo_here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "pairs.jsonl", *columns, **others)
    done = orpo_here("init", "mine", "--data", "pairs.jsonl")
    assert done.returncode == 0, done.stderr
    assert message in done.stderr
    assert load_recipe("mine.yaml").recipe.dataset.train[0].columns == mapping


def test_init_maps_the_prompt_of_two_answers_with_a_verdict(tmp_path, orpo_here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    header = "id,user_question,response_a,response_b,preferred"
    rows = [f"{n},What is number {n}?,It is {n}.,I do not know that number {n}.,{'ab'[n % 2]}" for n in range(8)]
    (tmp_path / "votes.csv").write_text("\n".join([header, *rows]))
    done = orpo_here("init", "mine", "--data", "votes.csv")
    message = (
        "columns: {prompt: user_question}; used under its own name: response_a, response_b, preferred; not used: id"
    )
    assert (message in done.stderr, "warning" in done.stderr) == (True, False)
    assert load_recipe("mine.yaml").recipe.dataset.train[0].columns == {"prompt": "user_question"}


def test_init_finds_the_fields_of_an_export_of_label_studio(tmp_path, orpo_here, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def task(number):
        answers = {"answer1": f"It is {number} today.", "answer2": f"I do not know that number {number}."}
        result = {"from_name": "pw", "type": "pairwise", "value": {"selected": ("left", "right")[number % 2]}}
        annotations = [{"id": number, "result": [result], "was_cancelled": False}] if number else []
        return {"id": number, "data": {"prompt": f"What is {number}?", **answers}, "annotations": annotations}

    (tmp_path / "export.json").write_text(json.dumps([task(number) for number in range(8)], indent=1))
    done = orpo_here("init", "mine", "--from", "quickstart", "--data", "export.json")
    mapping = {
        "prompt": "data.prompt",
        "response_1": "data.answer1",
        "response_2": "data.answer2",
        "winner": "annotations.0.result.0.value.selected",
    }
    assert load_recipe("mine.yaml").recipe.dataset.train[0].columns == mapping
    assert "; not used: id\n" in done.stderr
    assert "warning" not in done.stderr


def test_init_says_which_scores_an_option_reads(tmp_path, orpo_here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pair = {"instruction": "Why?", "good": "Because.", "bad": "Dunno.", "chosen_rating": 4.5, "rejected_rating": 2}
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps({**pair, "n": n}) + "\n" for n in range(8)))
    done = orpo_here("init", "mine", "--data", "pairs.jsonl")
    scores = "chosen_rating, rejected_rating"
    assert (
        f"not used: {scores}, n (`min_score_margin` and `weight_by` use {scores.replace(', ', ' and ')})" in done.stderr
    )
    assert "used under its own name" not in done.stderr


def test_init_from_a_shipped_recipe_has_a_comment_for_columns_that_are_not_found(tmp_path, orpo_here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "votes.jsonl").write_text('{"a": "x y", "b": "z"}\n')
    done = orpo_here("init", "mine", "--from", "quickstart", "--data", "votes.jsonl")
    assert "look at beta and max_length, too" in done.stderr
    text = (tmp_path / "mine.yaml").read_text()
    assert "    # columns: {prompt: question, chosen: good, rejected: bad}" in text
    dataset = yaml.safe_load(text)["dataset"]
    assert dataset == {"train": {"path": "votes.jsonl"}, "eval": {"test_size": 0.2}}


def test_init_force_overwrites_a_recipe_whose_columns_have_to_be_named(tmp_path, orpo_here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("old")
    (tmp_path / "votes.jsonl").write_text('{"a": "x y", "b": "z"}\n')
    done = orpo_here("init", "mine", "--data", "votes.jsonl", "--force")
    assert (done.returncode, "write the `columns:` line in mine.yaml" in done.stderr) == (0, True)
    assert load_recipe("mine.yaml").recipe.dataset.train[0].path == "votes.jsonl"


@pytest.mark.parametrize("names", [("问题", "好回答", "差回答"), ("用户", "选中", "未选中")])
def test_init_finds_chinese_columns(names, tmp_path, orpo_here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [dict(zip(names, (f"第{n}种茶怎么泡？", "用热水。", "不知道。"), strict=True)) for n in range(8)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = orpo_here("init", "mine", "--data", "pairs.jsonl")
    assert done.returncode == 0, done.stderr
    assert f'columns: {{prompt: "{names[0]}", chosen: "{names[1]}", rejected: "{names[2]}"}}' in done.stderr
    (source,) = load_recipe("mine.yaml").recipe.dataset.train
    assert source.columns == dict(zip(("prompt", "chosen", "rejected"), names, strict=True))


def test_an_existing_recipe_does_not_hide_the_problem_with_the_data(tmp_path, orpo_here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("precious")
    done = orpo_here("init", "mine", "--data", "wrong.jsonl")
    assert done.returncode == 2
    assert "warning: wrong.jsonl: no such file" in done.stderr
    assert "error: mine.yaml exists already." in done.stderr
    assert (tmp_path / "mine.yaml").read_text() == "precious"
    write_rows(tmp_path / "pairs.jsonl", "conversation")
    done = orpo_here("init", "mine", "--data", "pairs.jsonl")
    assert (done.returncode, "warning" in done.stderr, "by the names" in done.stderr) == (2, False, False)
    assert (tmp_path / "mine.yaml").read_text() == "precious"
