"""Shell scripts of training commands: words and variables are those that bash gives to the program."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from orpo_cli.recipe.convert.command_line import parse_flags
from orpo_cli.recipe.convert.shell_script import read_script


def words(text: str) -> list[list[str]]:
    return [list(command.words) for command in read_script(text).commands]


# Each ends in one command, `show`, which prints its arguments.
SCRIPTS = (
    "X=1  # comment\nshow --a $X",
    "X='a b'; show --a \"$X\" --b $X",
    "export X=1 Y=2\nshow $X $Y",
    'X=${NONE:-5}\nshow --a ${X} --b "${NONE2:-a b}"',
    "X=${X:-5}\nshow --a $X",
    "A=out\nB=$A/x-${A}\nshow $B/y",
    "show --a 'it''s' --b \"x\\\"y\" --c x\\ y",
    "show a \\\n  b \\\n  c",
    "show 'a#b' a#b #c",
    "X=\"a\"\nX+=b\nshow $X",
    'ARGS=(--a 1\n  --b "2 3"  # note\n)\nshow "${ARGS[@]}" --c',
    'ARGS=()\nARGS+=(--a 1)\nshow "${ARGS[@]}"',
    "show a > /dev/stdout 2>&1",
    "show '$X' \"\\$X\"",
    "cat > /dev/null <<EOF\nit's\nEOF\nshow a",
    "true && show a",
    ": ${X:=7}\nshow --a $X",
    'show --a "" b',
    "X=1 Y=2\nshow ${X}${Y}",
    "X=\nshow --a $X b \"$X\"",
    "X='--a 1 --b 2'\nshow $X",
    "show --a=1,2 --b=[x] {c}",
)  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_words_are_those_of_bash(script: str) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    show = "show() { printf '%s\\0' \"$@\"; }\n"
    printed = subprocess.run([bash, "-c", show + script], capture_output=True, text=True, check=True, env={}).stdout
    (command,) = [found for found in words(script) if found[0] == "show"]
    assert command[1:] == printed.split("\0")[:-1]


def test_what_only_the_shell_knows_stays_as_it_is_written() -> None:
    script = "show $HOME ${UNSET} $(expr 16 / 2) $((2 * 3)) `date` ${X%.*} ${1:-d}"
    assert words(script) == [["show", "$HOME", "${UNSET}", "$(expr 16 / 2)", "$((2 * 3))", "`date`", "${X%.*}", "d"]]


def test_a_variable_that_depends_on_a_condition_is_not_known() -> None:
    text = 'X=1\nif [ -n "$1" ]; then X=2; fi\n[ -d x ] && Y=3\nfor Z in 1 2; do show $X $Y $Z; done\n'
    assert ["show", "$X", "$Y", "$Z"] in words(text)


def test_flags_after_a_comment_within_a_command_belong_to_it() -> None:
    text = "swift rlhf \\\n  --a 1 \\\n  # --b 2 \\\n  --c 3  # note \\\n  --d 4 \\ # more\n  --e 5\nnext --f 6\n"
    first, second = read_script(text).commands
    assert parse_flags(first.words) == {"a": 1, "c": 3, "d": 4, "e": 5}
    assert (first.first_line, first.last_line, first.comment_lines) == (1, 6, (3, 4, 5))
    assert second.words == ("next", "--f", "6")


def test_arguments_of_the_script_and_marks_of_notebooks_are_left_out() -> None:
    assert words('!swift rlhf --a 1 "$@"\n$ swift rlhf --b 2 $*\n') == [
        ["swift", "rlhf", "--a", "1"], ["swift", "rlhf", "--b", "2"],
    ]  # fmt: skip


def test_defaults_that_are_used_are_reported() -> None:
    script = read_script("M=${MODEL:-a/b}\nB=1\nshow $M ${B:-2} ${LR:-1e-5}\n")
    assert script.commands[-1].words == ("show", "a/b", "1", "1e-5")
    assert script.defaults == {"MODEL": "a/b", "LR": "1e-5"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("show 'a", "the quote ' on line 1 is not closed"),
        ("X=" + "a" * 60_000 + "\nX=$X$X\nX=$X$X\n", "longer than 100,000"),
        ("show " + "${A:-" * 3_000, "nested too deeply"),
    ],
)
def test_a_script_that_cannot_be_read_is_an_error(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_script(text)


def test_flags_with_a_colon_or_a_typographic_dash_are_read() -> None:
    assert parse_flags(["--pref_loss:", "orpo", "—stage", "dpo", "--a:b", "–c=1", "--no_d"]) == {
        "pref_loss": "orpo", "stage": "dpo", "a": "b", "c": 1, "d": False,
    }  # fmt: skip
