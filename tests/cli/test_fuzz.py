"""Fuzz tests of `orpo validate`: any file is accepted, or rejected with the line of the error, fast and without a crash."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orpo_cli.recipe.source.shipped_recipes import shipped_recipes

Orpo = Callable[..., Any]
TEXTS = [recipe.text_to_copy() for recipe in shipped_recipes()]
WORDS = [
    "model",
    "dataset",
    "training",
    "lora",
    "quantization",
    "path",
    "r",
    "beta",
    "x",
    "yes",
    "null",
    "5e-6",
    "true",
    "~",
    "'it'",
    '"q"',
    "-1",
    ".5",
    "[a]",
    "{b:",
    "c}",
    "&",
    "*",
    "!",
    "|",
    ">",
    "-",
    "?",
    ":",
    "#",
    "%",
    "@",
    "`",
]

VALUES = [
    "null", "true", "'true'", "yes", "-1", "0", "1e400", "-1e400", ".nan", ".inf", "-.inf", "1" * 400, "-" + "9" * 5000, "0x" + "f" * 300,
    "0o777", "1_000", "2024-01-01", "2024-01-01T00:00:00Z", "12:30:45", "=", "<<", "''", "' '", "[]", "{}", "[[[]]]", "{a: {b: [c]}}",
    "'" + "x" * 5000 + "'", "\"\\0\\x07\"", "\"\\ud800\"", "!!binary aGVsbG8=", "!!set {a, b}", "!!omap [a: 1]", "!!timestamp 2024-01-01",
    "!!python/object/apply:os.system [true]", "!!python/name:os.system", "!!python/tuple [1, 2]", "!custom x", "!!int x", "!!float []", "*nowhere",
    "&a [*a]", "&a {b: *a}", "${", "${UNSET_IN_THIS_TEST}", "${UNSET_IN_THIS_TEST:-1e-5}", "${A:-${B}}", "$${A}", "${A-B}", "${HOME", "@at", "`tick`",
    "%percent", "|\n      block\n      text", ">-\n      folded", "\t1", "é ü 漢字 🙂", "\u202eabc", "(a+)+$", "[", "{", "]", "}", "'", '"', "? x", "- x",
]  # fmt: skip


def lines_with_value(text: str) -> list[int]:
    return [number for number, line in enumerate(text.splitlines()) if re.match(r" *[\w-]+: *\S", line)]


def replace_value(text: str, rng: random.Random) -> str:
    lines = text.splitlines()
    number = rng.choice(lines_with_value(text))
    lines[number] = re.sub(r": .*", lambda _: f": {rng.choice(VALUES)}", lines[number], count=1)
    return "\n".join(lines)


def rename_key(text: str, rng: random.Random) -> str:
    keys = re.findall(r"^ *([\w-]+):", text, re.MULTILINE)
    key = rng.choice(keys)
    other = rng.choice([key[:-1], key + "s", key.upper(), rng.choice(keys), rng.choice(WORDS), "ключ", "", "a b"])
    return re.sub(rf"^( *){key}:", lambda match: f"{match[1]}{other}:", text, count=1, flags=re.MULTILINE)


def move_section(text: str, rng: random.Random) -> str:
    sections = re.split(r"^(?=\w)", text, flags=re.MULTILINE)
    one = rng.randrange(len(sections))
    moved = "".join(f"  {line}" for line in sections.pop(one).splitlines(keepends=True))
    sections.insert(rng.randrange(len(sections) + 1), moved)
    return "".join(sections)


def drop_double_or_shift_line(text: str, rng: random.Random) -> str:
    lines = text.splitlines()
    number = rng.randrange(len(lines))
    line = lines.pop(number)
    for each in rng.choice(
        [[], [line, line], [f" {line}"], [line.lstrip()], [f"\t{line}"], [line.rstrip(":")], [line[: len(line) // 2]]]
    ):
        lines.insert(number, each)
    return "\n".join(lines)


def insert_noise(text: str, rng: random.Random) -> str:
    position = rng.randrange(len(text))
    noise = "".join(
        chr(rng.choice([rng.randrange(128), rng.randrange(0x3000), 10, 32, 58])) for _ in range(rng.randrange(1, 40))
    )
    return text[:position] + noise + text[position:]


def insert_words(text: str, rng: random.Random) -> str:
    position = rng.randrange(len(text))
    return text[:position] + " ".join(rng.choices(WORDS, k=rng.randrange(1, 6))) + text[position:]


def change_bytes(text: str, rng: random.Random) -> bytes:
    data = bytearray(text.encode())
    for _ in range(rng.randrange(1, 8)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def insert_hostile_text(text: str, rng: random.Random) -> str | bytes:
    """Text made to exhaust or crash a parser, alone or below a valid recipe."""
    deep, wide = rng.choice([60, 1_000, 40_000]), rng.choice([200, 9_000, 30_000])
    laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)
    )
    merges = "a0: &a0 {x: 1}\n" + "".join(
        f"a{n + 1}: &a{n + 1} {{<<: [*a{n}, *a{n}], k{n}: 1}}\n" for n in range(wide // 30)
    )
    hostile = rng.choice(
        [
            laughs, merges, "a: " + "[" * deep, "a: " + "[" * deep + "]" * deep, "a: " + "{a: " * deep, "- " * deep, "? " * deep,
            "".join(f"{' ' * n}a:\n" for n in range(min(deep, 600))), "a: " + "!!str " * deep, "a: " + "&x " * deep, "a: \"" + "\\x41" * deep,
            "".join(f"k{n}: {n}\n" for n in range(wide)), "[" + "x, " * wide + "]", "a: [" + "{b: 1}, " * (wide // 4) + "]",
            "a: " + "x" * 1_000_000, "\n" * 150_000, "#" * 190_000, "--- a\n" * (wide // 3), "a: 1\n---\nb: 2\n", "%YAML 9.9\n---\na: 1\n", "%TAG ! x\n---\na: 1\n",
            "", " ", "\ufeff", "\ufeffmodel: 1", "---", "...", "null", "[]", "- model", "text", "1", "a: 'never closed\n" + "x\n" * wide,
            bytes(rng.randrange(256) for _ in range(rng.choice([10, 1_000, 100_000]))), rng.randbytes(1_000_000), b"\xff\xfe" + "model: 1".encode("utf-16-le"),
            b"\x00" * 1_000, b"\x1f\x8b\x08" + rng.randbytes(500), "extends: .\n", "extends: r.yaml\n", "extends: nowhere\n", "extends: [a]\n", "extends: /dev/zero\n", "extends: ${HOME}\n",
        ]
    )  # fmt: skip
    if isinstance(hostile, bytes) or rng.random() < 0.5:
        return hostile
    return f"{text}\n{hostile}"


CHANGES: list[Callable[[str, random.Random], str | bytes]] = [
    replace_value, replace_value, rename_key, move_section, drop_double_or_shift_line, insert_noise, insert_words, change_bytes, insert_hostile_text, insert_hostile_text,
]  # fmt: skip


def broken_recipes(seed: int, count: int) -> Iterator[bytes]:
    rng = random.Random(seed)
    for number in range(count):
        text: str | bytes = rng.choice(TEXTS)
        for _ in range(rng.choice([1, 1, 2])):
            if isinstance(text, str):
                text = CHANGES[number % len(CHANGES)](text, rng)
        yield text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


def assert_reported(code: int, stdout: str, stderr: str, name: str) -> None:
    assert "Traceback" not in stderr
    assert code in (0, 2), stderr
    if code == 2:
        located = [line for line in stderr.splitlines() if re.match(rf"(\S*{name}|/dev/zero):[1-9]\d*\b", line)]
        assert located, f"no line is named:\n{stderr[:500]}"
    else:
        assert stdout.endswith("ok\n")


@pytest.mark.timeout(600)  # seconds; a hang fails
def test_500_broken_recipes_are_reported_without_a_crash(tmp_path: Path, orpo_here: Orpo) -> None:
    file = tmp_path / "r.yaml"
    codes = []
    for data in broken_recipes(seed=0, count=500):
        file.write_bytes(data)
        try:
            done = orpo_here("validate", file)
            assert_reported(done.returncode, done.stdout, done.stderr, "r.yaml")
        except BaseException:
            print(f"start of the recipe: {data[:2000]!r}")
            raise
        codes.append(done.returncode)
    assert codes.count(0) >= 20, "some changes keep the recipe valid"
    assert codes.count(2) >= 300


@pytest.mark.timeout(600)
def test_broken_recipes_are_reported_without_a_crash_in_a_separate_process(tmp_path: Path, orpo: Orpo) -> None:
    file = tmp_path / "r.yaml"
    for data in broken_recipes(seed=1, count=30):
        file.write_bytes(data)
        done = orpo("validate", file)
        assert_reported(done.returncode, done.stdout, done.stderr, "r.yaml")


MINIMAL = "model: {model_name_or_path: a/b}\ndataset: {train: {path: x.jsonl}}\n"


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("addition", "words"),
    [
        (f"lora: {{target_modules: '{'(' * 5_000}{')' * 5_000}'}}", "not a valid regular expression"),
        ("lora: {target_modules: 'a{99999999999999}'}", "not a valid regular expression"),
        (f"training: {{run_name: {'wandb' * 36_000}}}", "report_to"),
        (f"extends: {'a' * 100_000}", "cannot be read"),
        ("extends: ~no-such-user/x", "there is no recipe"),
        ("extends: /dev/zero", "cannot be read"),
        (r'name: "\ud800"', "has a NUL character"),
        (r'output_dir: "a\0b"', "has a NUL character"),
        ("training:\n" + "".join(f"  per_device_train_batch_size{n}: 1\n" for n in range(4_000)), "Did you mean"),
    ],
    ids=["deep-pattern", "wide-pattern", "secret", "long-name", "home", "endless", "half-character", "nul", "keys"],
)  # fmt: skip
def test_hostile_values_are_reported_quickly(addition: str, words: str, tmp_path: Path, orpo_here: Orpo) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(MINIMAL + addition + "\n")
    done = orpo_here("validate", file, "--strict")
    assert_reported(done.returncode, done.stdout, done.stderr, "r.yaml")
    assert words in done.stderr
    assert done.returncode == 2
