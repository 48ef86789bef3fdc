"""A hundred recipes as an attacker would write them: each reads, writes, sends or computes what a recipe has no reason to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

HUGE = 10**18  # a longer integer is no valid YAML here
CLOSED = "http://127.0.0.1:1"  # a port where nothing listens
TEXT_OF_FILE = "plantedPrivateFile0123"


class HostileRecipe(NamedTuple):
    """``text`` is the recipe; ``command`` is what the victim runs on it."""

    name: str
    text: str | bytes
    command: str = "data"


def prepare_world(folder: Path) -> None:
    """The files of the victim: a home directory with private files, next to the recipe."""
    private = folder / "home" / ".ssh"
    private.mkdir(parents=True)
    for path in (
        private / "id_rsa",
        private / "secret.jinja.txt",
        folder / "home" / "secret.yaml",
        folder / "secret.txt",
    ):
        path.write_text(f"{TEXT_OF_FILE}:x:0:0\n")
    for name in ("fifo", "fifo.jsonl", "fifo.jinja"):
        os.mkfifo(folder / name)
    (folder / "link").symlink_to(private)
    (folder / "deep").mkdir()
    (folder / "deep" / "cycle.yaml").write_text("extends: cycle.yaml\n")
    for name, config in MODELS.items():
        (folder / "models" / name).mkdir(parents=True)
        (folder / "models" / name / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    (folder / "models" / "x.gguf").write_bytes(b"GGUF" + b"\xff" * 64)
    (folder / "models" / "pickled").mkdir()


LLAMA: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32, "intermediate_size": 64, "vocab_size": 400,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
MODELS: dict[str, Any] = {
    "code": {**LLAMA, "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}},
    "code-elsewhere": {"auto_map": {"AutoConfig": "other/repo--evil.Config"}},
    "negative": {**LLAMA, "vocab_size": -1, "hidden_size": -5},
    "texts": {**LLAMA, "hidden_size": "x" * 100, "num_hidden_layers": "many"},
    "wide": {**LLAMA, "hidden_size": 2**62, "vocab_size": 2**62},
    "unknown": {"model_type": "\x1b]0;owned\x07", "architectures": ["os.system"]},
    "list": [1, 2, 3],
    "nested": "[" * 200_000,
    "number": '{"vocab_size": ' + "9" * 10_000 + "}",
    "empty": "",
}


def _sections(section: str, **values: Any) -> dict[str, Any]:
    return {section: values}


def _merged(values: dict[str, Any]) -> str:
    recipe: dict[str, Any] = {
        "output_dir": "run",
        "model": {"model_name_or_path": "model"},
        "dataset": {"train": {"path": "train.jsonl"}, "max_prompt_length": 96},
        "training": {
            "max_steps": 1,
            "per_device_train_batch_size": 2,
            "max_length": 192,
            "save_strategy": "no",
            "warmup_steps": 0,
            "gradient_checkpointing": False,
        },
        "engine": {"max_tokens_per_microbatch": 1024},
        "lora": {"r": 4},
    }
    for name, value in values.items():
        recipe[name] = {**recipe.get(name, {}), **value} if isinstance(value, dict) else value
    return json.dumps(recipe)


def hostile_recipes() -> Iterator[HostileRecipe]:
    """The recipes, each of another name."""
    for kind, values, command in _values():
        for number, value in enumerate(values):
            yield HostileRecipe(f"{kind}-{number}", _merged(value), command)
    for name, text in _texts().items():
        yield HostileRecipe(name, text, "validate")


def _values() -> Iterator[tuple[str, list[dict[str, Any]], str]]:
    yield "extends", [
        {"extends": each}
        for each in (
            f"{CLOSED}/base.yaml", "file:///etc/passwd", "/etc/passwd", "../" * 12 + "etc/passwd", "~/secret.yaml", "/dev/zero",
            "/proc/self/environ", "fifo", ".", "deep/cycle.yaml", "a\0b", "x" * 5000, "~nobody-here/x.yaml", "line\nbreak",
        )
    ], "validate"  # fmt: skip
    yield "output_dir", [
        {"output_dir": each}
        for each in (
            "/", "~", "~/.ssh", "link", "/proc/self/x", "/dev/null", "/dev/null/x", "a\0b", "a" * 300, "a/" * 3000,
            "~nobody-here/x", "secret.txt", "..",
        )
    ], "train"  # fmt: skip
    names = ("../../home/x", "/home/x", "..", "a/../../home/x", "x" * 400)
    yield "name", [{"name": each, "output_dir": None} for each in names], "train"
    yield "model", [
        _sections("model", model_name_or_path=each)
        for each in (
            "package://os/x.gguf", "package://../../secret.txt", "package://this/x.gguf", "secret.txt", "/etc", "~",
            "file:///etc/passwd", f"{CLOSED}/model", "../" * 12 + "etc", "a\0b", "x" * 5000, "models/x.gguf", "fifo",
            *(f"models/{name}" for name in MODELS),
        )
    ], "plan"  # fmt: skip
    yield "subfolder", [_sections("model", subfolder=each) for each in ("../home/.ssh", "/etc", "a\0b")], "plan"
    yield "template", [
        _sections("model", chat_template=each)
        for each in (
            "secret.txt", "/etc/passwd", "~/.ssh/secret.jinja.txt", "/dev/zero", "/proc/self/environ", "fifo.jinja", "a/b\0.jinja",
            "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{% include '/etc/passwd' %}", "{% for x in %}",
            "{{ raise_exception('x' * 100000) }}", "{{ cycler.__init__.__globals__.os.environ }}", "{{ messages[10**9] }}",
        )
    ], "data"  # fmt: skip
    yield "dataset", [
        _sections("dataset", train={"path": each})
        for each in (
            "/etc/passwd", "~/.ssh", "secret.txt", "/dev/zero", "/proc/self/environ", "fifo.jsonl", "file:///etc/passwd",
            f"{CLOSED}/x.jsonl", "http://x:y:z/a.jsonl", "http://[/a.jsonl", "zip://a.jsonl::secret.txt", "zip://a.jsonl::no.zip",
            "simplecache::file://secret.txt", "memory://x.jsonl", "reference://x.jsonl", "dir://x.jsonl", "nosuch://x.jsonl",
            "s3://bucket/x.jsonl", "a\0b.jsonl", "x" * 5000 + ".jsonl", "::", "https://",
        )
    ], "data"  # fmt: skip
    yield "source", [
        _sections("dataset", train={"path": "train.jsonl", **each})
        for each in (
            {"split": "train[:" + "9" * 5000 + "]"}, {"split": "__class__"}, {"max_samples": HUGE}, {"weight": 1e308},
            {"columns": {"chosen": "a." * 5000}}, {"columns": {"chosen": "__class__.__mro__"}}, {"format": "os.system"},
            {"labels": {"x" * 9999: "first"}},
        )
    ], "data"  # fmt: skip
    yield "number", [
        _sections("training", **each)
        for each in (
            {"max_steps": HUGE}, {"per_device_train_batch_size": HUGE}, {"max_length": HUGE}, {"learning_rate": 1e308},
            {"num_train_epochs": 1e300, "max_steps": None}, {"gradient_accumulation_steps": HUGE}, {"seed": -1}, {"seed": HUGE},
            {"logging_steps": 1e-300}, {"dataloader_num_workers": 10**9}, {"warmup_steps": 1e300}, {"beta": 1e308},
        )
    ], "plan"  # fmt: skip
    yield "adapter", [
        _sections("lora", **each)
        for each in ({"r": 10**9}, {"r": HUGE}, {"target_modules": "(a+)+$"}, {"rank_pattern": {"(x+x+)+y": 4}})
    ], "plan"  # fmt: skip
    yield "file of a library", [
        _sections("training", **each)
        for each in (
            {"fsdp_config": "/etc/passwd"}, {"deepspeed": "secret.txt"}, {"accelerator_config": "secret.txt"},
            {"report_to": "secret.txt"}, {"optim_args": "lr=__import__('os').system('touch owned')"},
            {"lr_scheduler_kwargs": {"lr_lambda": "lambda: open('owned', 'w')"}}, {"resume_from_checkpoint": "/etc"},
        )
    ], "train"  # fmt: skip


def _texts() -> dict[str, str | bytes]:
    laughs = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    return {
        "billion laughs": laughs,
        "recursive anchor": "a: &a [*a]\n",
        "merge keys": "a: &a {b: 1}\nc:\n  <<: *a\n",
        "deep flow": "a: " + "[" * 100_000,
        "deep blocks": "".join(" " * level + "a:\n" for level in range(3000)),
        "many keys": "".join(f"key{number}: 1\n" for number in range(200_000)),
        "large text": "a: '" + "x" * 20_000_000 + "'\n",
        "python object": "a: !!python/object/apply:os.system ['touch owned']\n",
        "huge integer": "a: " + "9" * 20_000 + "\n",
        "huge exponent": "training: {beta: 1e999999999}\n",
        "huge hexadecimal": "a: 0x" + "f" * 100_000 + "\n",
        "not UTF-8": b"a: \xff\xfe\n",
        "NUL": b"a: \x00\n",
        "UTF-16": "a: 1\n".encode("utf-16"),
        "many references": "name: '" + "${X:-x}" * 50_000 + "'\n",
        "open references": "name: '" + "${" * 50_000 + "'\n",
        "many aliases": "a: &a x\nb: [" + "*a," * 100_000 + "]\n",
        "complex key": "? [a, b]\n: 1\n",
    }
