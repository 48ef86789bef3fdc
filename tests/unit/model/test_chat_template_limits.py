"""Limits and errors of chat templates: what a stranger's template can do to the process, and what the user is told."""

from __future__ import annotations

import cProfile
import threading
import time
from pathlib import Path

import pytest
from jinja2.sandbox import SecurityError
from support.forks import start_fork, wait
from support.json_lines import write_json_lines
from support.tiny import CHATML, pairs, save_tiny_model, tiny_tokenizer, write_pairs
from transformers.utils import chat_template_utils

from orpo_cli.data.prepare import prepare
from orpo_cli.errors import DataError, OrpoError, UsageError
from orpo_cli.model import chat_template_limits, chat_template_watch
from orpo_cli.model.builtin_chat_templates import BUILTIN_CHAT_TEMPLATES
from orpo_cli.model.chat_template_errors import ChatTemplateError, completion_suffix, explain_template_errors
from orpo_cli.model.chat_template_limits import LimitedEnvironment, limit_chat_templates, render_conversations
from orpo_cli.model.model_source import ModelSource
from orpo_cli.model.tokenizer import load_tokenizer
from orpo_cli.recipe.schema import DatasetSection, ModelSection

CONVERSATION = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]


def render(template: str) -> str:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    with explain_template_errors(tokenizer):
        return str(tokenizer.apply_chat_template(CONVERSATION, tokenize=False))


LARGE = {
    "doubled with ~": "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "doubled with +": "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "doubled list": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "repeated": "{{ 'a' * 10**10 }}",
    "repeated list": "{{ ([0] * 10**10)|length }}",
    "output": "{% for i in range(99999) %}{{ 'a' * 1000000 }}{% endfor %}",
    "macro": "{% macro f() %}{% for i in range(999) %}{{ 'a' * 1000000 }}{% endfor %}{% endmacro %}{{ f()|length }}",
    "%": "{{ '%9999999999d' % 1 }}",
    "% with *": "{{ '%*d' % (9999999999, 1) }}",
    "format": "{{ '{:9999999999d}'.format(1) }}",
    "nested format": "{{ '{:{}d}'.format(1, 9999999999) }}",
    "format filter": "{{ '%9999999999d'|format(1) }}",
    "center": "{{ 'a'|center(10**10) }}",
    "ljust": "{{ 'a'.ljust(10**10) }}",
    "expandtabs": "{{ 'a\\t'.expandtabs(10**10) }}",
    "indent": "{{ ('a\\n' * 100000)|indent(100000) }}",
    "tojson": "{{ messages|tojson(indent=10**10) }}",
    "replace": "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
    "replace filter": "{{ ('a' * 1000000)|replace('a', 'b' * 1000000) }}",
    "join": "{{ ('a' * 1000000).join(range(99999)|list) }}",
    "join filter": "{{ range(99999)|join('a' * 1000000) }}",
    "batch": "{{ [1]|batch(10**10, 'x')|list|length }}",
}


@pytest.mark.parametrize("name", LARGE)
def test_a_text_that_is_too_large_is_refused_before_it_is_made(name: str) -> None:
    started, memory = time.process_time(), chat_template_watch._memory_bytes()
    with pytest.raises(ChatTemplateError, match=r"makes a text or list of [\d,]{10,} elements, more than 67,108,864"):
        render(LARGE[name])
    assert time.process_time() - started < 5
    assert chat_template_watch._memory_bytes() - memory < 1 << 30


def test_an_integer_that_is_too_large_is_refused() -> None:
    with pytest.raises(ChatTemplateError, match="computes an integer"):
        render("{{ 9 ** (9 ** 9) }}")
    with pytest.raises(ChatTemplateError, match="computes an integer"):
        render("{% set n = namespace(x=3) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}")


def test_a_template_that_is_too_large_is_refused() -> None:
    with pytest.raises(ChatTemplateError, match="it has 10,000,006 characters"):
        render(f"{{# {'x' * 10_000_000} #}}")


ENDLESS = {
    "loops": "\n{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "filter": "\n{{ range(99999)|map('string')|list|join|length }}{% for a in range(99999) %}{{ range(99999)|sum }}{% endfor %}",
    "recursion": ("\n{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_that_does_not_end_is_stopped(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template_watch, "MAX_CPU_SECONDS", 0.3)
    with pytest.raises(ChatTemplateError, match=r"line 2: it takes longer than 0\.3 s"):
        render(ENDLESS[name])
    assert render(CHATML).startswith("<|im_start|>user")  # nothing is left behind
    assert wait(start_fork(lambda: cProfile.Profile().runcall(render, CHATML)), 20) == 0  # also in the interpreter


def test_a_template_that_fills_the_memory_in_small_steps_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template_watch, "MAX_MEMORY_BYTES", 200 << 20)
    with pytest.raises(ChatTemplateError, match="of memory"):
        render(
            "{% set n = namespace(x=[]) %}{% for i in range(99999) %}{% set n.x = n.x + ['a' * (40000000 + i)] %}{% endfor %}"
        )


def test_the_limits_hold_in_each_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template_watch, "MAX_CPU_SECONDS", 0.3)
    results: list[str] = []

    def work(template: str) -> None:
        try:
            results.append(render(template))
        except ChatTemplateError as error:
            results.append(error.reason)

    threads = [threading.Thread(target=work, args=(each,)) for each in (ENDLESS["loops"], CHATML, ENDLESS["loops"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(result.split("longer")[0] for result in results[:2] + results[2:]) == sorted(
        [render(CHATML), *2 * ["line 2: it takes "]]
    )


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("a\n{% if %}", "line 2: Expected an expression, got 'end of statement block'"),
        ("a\n\n{{ messages[0].x.y }}", "line 3: 'dict object' has no attribute 'x'"),
        ("a\n{{ raise_exception('no system') }}", "line 2: no system"),
        ("{{ 1 + 'a' }}", "line 1: unsupported operand type(s) for +: 'int' and 'str'"),
        ("{{ 1 / 0 }}", "line 1: division by zero"),
        ("{{ range(10**9)|list }}", "line 1: Range too big"),
        ("{% macro f() %}{{ f() }}{% endmacro %}\n{{ f() }}", "line 1: maximum recursion depth exceeded"),
        ("{{" + "(" * 5000 + "1" + ")" * 5000 + "}}", "maximum recursion depth exceeded"),
        ("{{ messages.__class__.__mro__ }}", "line 1: access to attribute '__class__'"),
    ],
)
def test_an_error_names_the_template_and_its_line(template: str, reason: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.name_or_path = "some/model"
    tokenizer.chat_template = template
    with pytest.raises(ChatTemplateError) as caught:
        completion_suffix(tokenizer)
    assert str(caught.value).startswith(f"the chat template of some/model: {reason}")
    assert caught.value.exit_code == 4
    assert caught.value.remedy


def prepare_with(template: str, folder: Path, rows: list[dict[str, object]]) -> list[str]:
    write_json_lines(folder / "x.jsonl", rows)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    section = DatasetSection.model_validate({"train": {"path": str(folder / "x.jsonl")}})
    prepared = prepare(section, tokenizer, max_length=192, max_prompt_length=96, note=lambda _: None)
    return prepared.report.sources[0].examples.get("template_error", [])


def test_a_row_that_the_template_cannot_render_is_named_with_the_line(tmp_path: Path) -> None:
    refuses = CHATML + "\n{% if '3 plus' in messages[0].content %}{{ raise_exception('not three') }}{% endif %}"
    assert prepare_with(refuses, tmp_path, pairs(6)) == ["x.jsonl:4 (line 5: not three)"]


def test_a_row_on_which_the_template_does_not_end_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template_watch, "MAX_CPU_SECONDS", 0.3)
    loops = CHATML + "{% if '3 plus' in messages[0].content %}" + ENDLESS["loops"] + "{% endif %}"
    with pytest.raises(
        DataError, match=r"^x\.jsonl:4: the chat template: line 5: it takes longer than 0\.3 s\.\n→ Set model"
    ):
        prepare_with(loops, tmp_path, pairs(6))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (b"a\n{% if %}", "line 2: Expected an expression"),
        (b"a\n{{ raise_exception('never') }}", "line 2: never"),
        (b"{{ \xff }}", "cannot be read: 'utf-8' codec"),
        (b"{# " + b"x" * 2_000_000 + b" #}", "cannot be read: it is larger than"),
    ],
)
def test_an_error_of_a_template_that_the_recipe_names_is_a_usage_error(
    template: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.jinja"
    path.write_bytes(template)
    section = ModelSection(model_name_or_path=str(save_tiny_model(tmp_path / "model")), chat_template=str(path))
    with pytest.raises(UsageError) as caught:
        load_tokenizer(ModelSource(section))
    assert str(caught.value).startswith(f"model.chat_template {path}: {message}")
    assert caught.value.exit_code == 2


def test_the_tokenizer_of_a_model_with_an_invalid_template_is_a_data_error(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% if %}"
    write_pairs(tmp_path / "x.jsonl", 3)
    section = DatasetSection.model_validate({"train": {"path": str(tmp_path / "x.jsonl")}})
    with pytest.raises(OrpoError, match="line 1: Expected an expression") as caught:
        prepare(section, tokenizer, max_length=192, max_prompt_length=96, note=lambda _: None)
    assert caught.value.exit_code == 4


def test_the_limits_change_no_rendering_and_cost_little() -> None:
    assert chat_template_utils.ImmutableSandboxedEnvironment is chat_template_limits.LimitedEnvironment
    for template in BUILTIN_CHAT_TEMPLATES.values():
        limited = render(template)
        chat_template_utils.ImmutableSandboxedEnvironment = chat_template_limits.ImmutableSandboxedEnvironment
        chat_template_utils._compile_jinja_template.cache_clear()
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = template
        assert tokenizer.apply_chat_template(CONVERSATION, tokenize=False) == limited
        limit_chat_templates()


STATEFUL = (
    "{% set n = namespace(system='none') %}{% macro turn(m) %}[{{ m.role }}]{{ m['content']|trim }}{% endmacro %}"
    "{% if messages[0].role == 'system' %}{% set n.system = messages[0].content %}{% set messages = messages[1:] %}{% endif %}"
    "{{ n.system }}{% for m in messages %}{{ loop.index0 }}/{{ loop.length }}{% if loop.first %}<{% endif %}{{ turn(m) }}"
    "{% if loop.last and not add_generation_prompt %}>{{ loop.revindex }}{{ loop.previtem is defined }}{% endif %}{% endfor %}"
    "{% set seen = n.system %}{{ seen }}{{ eos_token }}{{ tools }}{{ nothing }}{{ range(2)|list }}"
)


@pytest.mark.parametrize("template", [*BUILTIN_CHAT_TEMPLATES.values(), CHATML, STATEFUL])
@pytest.mark.parametrize("add_generation_prompt", [False, True])
def test_conversations_rendered_together_are_those_rendered_alone(template: str, add_generation_prompt: bool) -> None:
    limit_chat_templates()
    compiled = chat_template_utils._compile_jinja_template(template)
    named = {"bos_token": "<s>", "eos_token": "</s>", "tools": None, "documents": None}
    variables = {**named, "add_generation_prompt": add_generation_prompt}
    conversations = [[{"role": "system", "content": " brief "}, *CONVERSATION], CONVERSATION[:1], CONVERSATION] * 2
    alone = [compiled.render(messages=each, **variables) for each in conversations]
    assert render_conversations(compiled, conversations, variables) == alone
    assert alone[0] != alone[1] != alone[2]


@pytest.mark.parametrize("attribute", ["__class__", "__init__", "_iterator", "_to_iterator", "__next__"])
def test_the_attributes_of_a_loop_stay_in_the_sandbox(attribute: str) -> None:
    template = f"{{% for m in messages %}}{{{{ loop.{attribute} + 1 }}}}{{% endfor %}}"
    compiled = LimitedEnvironment().from_string(template)
    with pytest.raises(SecurityError, match="unsafe"):
        compiled.render(messages=CONVERSATION)
    with pytest.raises(SecurityError, match="unsafe"):
        render_conversations(compiled, [CONVERSATION, CONVERSATION], {})


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_renders_although_a_thread_held_the_lock_at_the_fork() -> None:
    with chat_template_watch._lock:
        child = start_fork(lambda: LimitedEnvironment().from_string("{{ 1 }}").render())
    assert wait(child, 10) == 0
