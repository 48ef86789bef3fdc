"""Recipes of strangers: `orpo train` trains, or refuses with a message, whatever a recipe holds; no traceback, no hang."""

from __future__ import annotations

import random
import subprocess
from typing import Any

import pytest
import yaml
from support.faults.fork_server import Command
from support.faults.outcome import Outcome
from support.faults.prepared_runs import TRAIN, last_lines, state_of

CODES = (0, 2, 3, 4, 5, 6, 7)
RANDOM = 60
# A value of a setting, as YAML: numbers at their limits, wrong types, texts that break terminals, files and patterns.
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 3, 10**18, -(10**18), 0.0, -0.5, 1e-300, 1e300, float("inf"), float("-inf"), float("nan"), "", " ", "nan", "auto",
    "never", "\x1b]0;x\x07\x1b[2J", "a\nb", "a\r\nb", "\u202eabc", "x" * 300, "../../x", "/dev/null", "/proc/self/mem", "~", "$HOME", "${HOME}",
    "${A:-${B}}", "(a+)+$", "[", "*", "{}", [], [None], ["x"] * 50, {}, {"a": {"b": 1}}, "é漢🙂", "\ud7ff", "<script>", "# x", "- x", "%s", "{0}",
)  # fmt: skip
SETTINGS = (
    "name", "output_dir", "model.model_name_or_path", "model.dtype", "model.chat_template", "model.revision", "model.max_memory",
    "model.rope_scaling", "model.add_special_tokens", "model.attn_implementation", "dataset.train.path", "dataset.train.columns",
    "dataset.train.split", "dataset.train.weight", "dataset.eval", "dataset.eval.test_size", "dataset.max_prompt_length", "dataset.rules",
    "dataset.rules.duplicate", "dataset.system", "lora.r", "lora.lora_alpha", "lora.lora_dropout", "lora.target_modules", "lora.modules_to_save",
    "lora.rank_pattern", "lora.init_lora_weights", "quantization", "quantization.bnb_4bit_quant_type", "training.max_steps",
    "training.num_train_epochs", "training.learning_rate", "training.beta", "training.max_length", "training.per_device_train_batch_size",
    "training.gradient_accumulation_steps", "training.save_steps", "training.eval_steps", "training.logging_steps", "training.seed",
    "training.optim", "training.optim_args", "training.lr_scheduler_type", "training.lr_scheduler_kwargs", "training.warmup_steps",
    "training.report_to", "training.run_name", "training.max_grad_norm", "training.weight_decay", "training.save_total_limit",
    "training.metric_for_best_model", "training.load_best_model_at_end", "engine.fast_path", "engine.max_tokens_per_microbatch",
    "merge", "merge.dtype", "export.formats", "hub.repo_id", "launch.num_processes",
)  # fmt: skip
# A setting with a value that is made to hang, to exhaust memory, or to write where it should not.
HOSTILE: tuple[tuple[str, Any], ...] = (
    ("model.chat_template", "{% for i in range(10**9) %}{{ i }}{% endfor %}"),
    ("model.chat_template", "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}"),
    ("model.chat_template", "{{ 'x' * 10**10 }}"),
    ("model.chat_template", "{{ ('x' * 10**5) * 10**5 }}"),
    ("model.chat_template", "{{ messages.__class__.__mro__[1].__subclasses__() }}"),
    ("model.chat_template", "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}"),
    ("model.chat_template", "{{ messages[999]['content'] }}"),
    ("model.chat_template", "{{ 1 // 0 }}"),
    ("model.chat_template", "{% if %}"),
    ("model.chat_template", "{{ raise_exception('no\x1b[2J') }}"),
    ("model.chat_template", ""),
    ("model.chat_template", "constant"),
    ("lora.target_modules", "(" * 3000),
    ("lora.target_modules", "((a+)+)+$"),
    ("lora.target_modules", "(.*a){30}$"),
    ("lora.target_modules", ["q_proj"] * 10_000),
    ("lora.rank_pattern", {"(a+)+$": 4}),
    ("output_dir", "r" * 300),
    ("output_dir", "a\nb"),
    ("output_dir", "/proc/1/x"),
    ("output_dir", "recipe.yaml"),
    ("output_dir", "recipe.yaml/x"),
    ("output_dir", "."),
    ("output_dir", "a/" * 1500),
    ("name", "x\n\n# Heading\n<script>alert(1)</script>\n---\nlicense: mit"),
    ("name", "\x1b[31m" * 100),
    ("dataset.train.path", "/dev/zero"),
    ("dataset.train.path", "/dev/stdin"),
    ("dataset.train.path", "/proc/self/environ"),
    ("dataset.train.path", "recipe.yaml"),
    ("dataset.train.path", "."),
    ("dataset.train.path", "x\0.jsonl"),
    ("dataset.train.path", "http://127.0.0.1:9/x.jsonl"),
    ("dataset.train.path", "zip://a::b::c"),
    ("model.model_name_or_path", "/dev/zero"),
    ("model.model_name_or_path", "."),
    ("model.model_name_or_path", "../.."),
    ("model.model_name_or_path", "x\ny"),
    ("training.optim_args", "x=" * 1000),
    ("training.lr_scheduler_kwargs", {"num_cycles": "x"}),
)


def put(recipe: dict[str, Any], path: str, value: Any) -> None:
    """Set a value in a recipe, also where a section has another value or is absent."""
    *sections, name = path.split(".")
    for section in sections:
        if not isinstance(recipe.get(section), dict):
            recipe[section] = {}
        recipe = recipe[section]
    recipe[name] = value


def changes(number: int) -> list[tuple[str, Any]]:
    """The changes of recipe ``number``."""
    if number >= RANDOM:
        return [HOSTILE[number - RANDOM]]
    draw = random.Random(number)
    return [(draw.choice(SETTINGS), draw.choice(VALUES)) for _ in range(1 + number % 3 // 2)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "number",
    [
        pytest.param(each, marks=[] if each in (RANDOM, RANDOM + 18) else pytest.mark.slow)
        for each in range(RANDOM + len(HOSTILE))
    ],
)
def test_a_hostile_recipe_is_trained_or_refused(number, server, runs, judge):
    folder = runs.folder(f"recipe-{number}", "lora", max_steps=2)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["training"] |= {"eval_strategy": "no", "save_strategy": "no"}
    for path, value in changes(number):
        put(recipe, path, value)
    (folder / "recipe.yaml").write_text(
        yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8", errors="surrogatepass"
    )
    outcome = Outcome(
        "hostile recipes",
        f"{number}: " + ", ".join(f"{path}={value!r:.60}" for path, value in changes(number)),
        " ".join(TRAIN),
    )
    done = server.start(Command(TRAIN, folder))
    outcome.expect(done.has_ended(180), "not ended after 180 s")  # 20 s of processor time for a template
    done.end()
    outcome.exit_code, outcome.said, outcome.state = done.code, done.said(), state_of(folder / "run")
    outcome.expect(done.code in CODES, f"exit code {done.code}: {last_lines(done.said())[:600]}")
    outcome.expect("Traceback" not in done.said(), "a traceback")
    outcome.expect("\x1b" not in done.said(), "a terminal escape in the output")
    subprocess.run(["rm", "-rf", folder / "a"], check=True)  # a thousand nested folders, which pytest cannot remove
    judge(outcome)
