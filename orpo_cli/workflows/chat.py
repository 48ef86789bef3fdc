"""Chat workflow (`orpo chat`): read messages from a terminal or a pipe, and print the answers as they are generated."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from typing import TYPE_CHECKING

from orpo_cli import interruption
from orpo_cli.errors import OrpoError
from orpo_cli.report.console import Console
from orpo_cli.report.progress import show_status
from orpo_cli.report.word_wrap import WordWrap
from orpo_cli.workflows.generate import refuse_compare_without_run
from orpo_cli.workflows.remote_code import warn_about_remote_code

if TYPE_CHECKING:
    from orpo_cli.evaluation.chat import Conversation
    from orpo_cli.evaluation.eval_target import Variant
    from orpo_cli.evaluation.generation import SamplingParams

HELP = (
    "/reset starts a new conversation, /exit (or Ctrl-D) ends the chat, Ctrl-C stops an answer, /help shows this line."
)


def chat(
    model: str,
    sampling: SamplingParams,
    console: Console,
    *,
    compare: bool,
    system: str | None,
    chat_template: str | None,
) -> None:
    """Answer the messages of standard input until its end or /exit. In a pipe every line is a message."""
    from orpo_cli.evaluation.eval_target import open_eval_target

    refuse_compare_without_run(compare, model)
    warn_about_remote_code(model, console)
    with show_status(console) as status:
        status("loading the model")
        target = open_eval_target(model, chat_template=chat_template, note=console.note)

    from orpo_cli.evaluation.chat import Conversation

    conversation = Conversation(target, sampling, system=system)
    if target.trained_as_text:
        console.warn(
            f"{target.name} was trained on plain text, and chat asks through the chat template, in another form. "
            "`orpo generate --prompt TEXT` asks as in training."
        )
    variants = target.variants if compare else target.variants[-1:]
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        console.note(HELP)
    with redirect_stdout(console.stdout):  # input() edits lines only where sys.stdout is the terminal
        for message in _read_messages(is_terminal):
            if message == "/exit":
                return
            if message == "/reset":
                conversation.reset()
                console.note("new conversation")
            elif message == "/help":
                console.note(HELP)
            elif is_terminal and message.startswith("/"):
                console.warn(f"no such command: {message}. {HELP}")
            else:
                _print_answers(conversation, message, variants, console, is_terminal)


def _read_messages(is_terminal: bool) -> Iterator[str]:
    """Lines that are not empty; with a prompt on a terminal."""
    if not is_terminal:
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    with suppress(ImportError):
        import readline  # noqa: F401  lets input() edit lines and recall them
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print(file=sys.stderr)
            return
        except KeyboardInterrupt:
            interruption.continue_after_ctrl_c()
            print("\n(Ctrl-D or /exit ends the chat)", file=sys.stderr)
            continue
        if line:
            yield line


def _print_answers(
    conversation: Conversation, message: str, variants: tuple[Variant, ...], console: Console, is_terminal: bool
) -> None:
    """Print each answer while it is generated. On a terminal neither Ctrl-C nor an error ends the chat."""
    for variant in variants:
        label = f"{variant}: " if len(variants) > 1 else ""
        print(label, end="", flush=True)
        screen = _screen(column=len(label))
        try:
            answer = conversation.ask(variant, message, screen.add)
            screen.add("" if answer.finished else " […]")
            screen.finish()
            print(end="\n\n" if is_terminal else "\n", flush=True)
        except KeyboardInterrupt:
            if not is_terminal:
                raise
            interruption.continue_after_ctrl_c()
            screen.add(" [stopped]")
            screen.finish()
            print("\n", flush=True)
            return
        except OrpoError as error:
            if not is_terminal:
                raise
            console.warn(f"{error.message} {error.remedy or ''}".strip())
            return


def _screen(column: int) -> WordWrap:
    """Standard output for the pieces of an answer: wrapped at words on a terminal, exact in a pipe."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    return WordWrap(width, lambda text: print(text, end="", flush=True), column)
