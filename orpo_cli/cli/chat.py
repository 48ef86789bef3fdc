"""``orpo chat``: talk to a model, or to base and tuned at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from orpo_cli.cli.generate import (
    ChatTemplate,
    Compare,
    MaxNewTokens,
    RunOrModel,
    Seed,
    System,
    Temperature,
    TopP,
    refuse_compare_without_base,
    sampling_of,
)
from orpo_cli.cli.options import Quiet
from orpo_cli.errors import OrpoError
from orpo_cli.report.console import Console

if TYPE_CHECKING:
    from orpo_cli.evaluation.chat import Conversation
    from orpo_cli.evaluation.eval_target import Variant

HELP = "/reset forgets the conversation, /exit (or Ctrl-D) leaves, Ctrl-C stops an answer, /help says this."


def command(
    run_or_model: RunOrModel,
    compare: Compare = False,
    max_new_tokens: MaxNewTokens = 512,
    temperature: Temperature = 0.0,
    top_p: TopP = None,
    seed: Seed = None,
    system: System = None,
    chat_template: ChatTemplate = None,
    quiet: Quiet = False,
) -> None:
    """Talk to a model. /reset forgets, /exit or Ctrl-D leaves, Ctrl-C stops an answer.

    Without a terminal every line of standard input is a message, and only the answers are printed.

    [bold]Examples[/bold]

      orpo chat runs/quickstart --compare
      orpo chat runs/quickstart --system "Answer in one sentence." --temperature 0.7
      printf 'Hello!\\nWhy is the sky blue?\\n' | orpo chat runs/quickstart
    """
    from orpo_cli.evaluation.eval_target import find_run, open_eval_target

    console = Console(quiet=quiet)
    sampling = sampling_of(max_new_tokens, temperature, top_p, seed, console)
    refuse_compare_without_base(compare, find_run(run_or_model) is not None, run_or_model)
    target = open_eval_target(run_or_model, chat_template=chat_template, note=console.note)

    from orpo_cli.evaluation.chat import Conversation

    conversation = Conversation(target, sampling, system=system)
    _talk(conversation, target.variants if compare else target.variants[-1:], console, sys.stdin.isatty())


def _talk(conversation: Conversation, variants: tuple[Variant, ...], console: Console, is_terminal: bool) -> None:
    """Read messages and answer them until the end of input or /exit."""
    if is_terminal:
        console.note(HELP)
    for message in _messages(is_terminal):
        if message == "/exit":
            return
        if message == "/reset":
            conversation.reset()
            console.note("forgotten")
        elif message == "/help":
            console.note(HELP)
        elif is_terminal and message.startswith("/"):
            console.warn(f"no such command: {message}. {HELP}")
        else:
            _answer(conversation, message, variants, console, is_terminal)


def _messages(is_terminal: bool) -> Iterator[str]:
    """Lines that say something, without a prompt where nobody is there to see it."""
    if not is_terminal:
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    with suppress(ImportError):
        import readline  # noqa: F401  lets input() edit lines and remember them
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print(file=sys.stderr)
            return
        except KeyboardInterrupt:
            print("\n(Ctrl-D or /exit leaves)", file=sys.stderr)
            continue
        if line:
            yield line


def _answer(
    conversation: Conversation, message: str, variants: tuple[Variant, ...], console: Console, is_terminal: bool
) -> None:
    """Print the answers as they come. On a terminal Ctrl-C stops one, and what goes wrong with one does not end the talk."""
    for variant in variants:
        if len(variants) > 1:
            print(f"{variant}: ", end="", flush=True)
        try:
            answer = conversation.ask(variant, message, lambda text: print(text, end="", flush=True))
            print("" if answer.finished else " […]", end="\n\n" if is_terminal else "\n", flush=True)
        except KeyboardInterrupt:
            if not is_terminal:
                raise
            print(" [stopped]\n", flush=True)
            return
        except OrpoError as error:
            if not is_terminal:
                raise
            console.warn(f"{error.message} {error.remedy or ''}".strip())
            return
