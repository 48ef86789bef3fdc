"""`orpo chat`: talk to a model, or compare base and tuned model in a conversation."""

from __future__ import annotations

from orpo_cli.cli import options
from orpo_cli.report.console import Console
from orpo_cli.workflows.chat import chat
from orpo_cli.workflows.generate import make_sampling


def command(
    run_or_model: options.RunOrModel,
    compare: options.Compare = False,
    max_new_tokens: options.MaxNewTokens = 512,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = None,
    seed: options.Seed = None,
    system: options.System = None,
    chat_template: options.ChatTemplate = None,
    quiet: options.Quiet = False,
) -> None:
    """Talk to a model, or to base and tuned model.

    /reset starts a new conversation, /exit or Ctrl-D ends the chat, Ctrl-C
    stops an answer.

    If standard input is not a terminal, every line of it is a message, and only
    the answers are printed.

    [bold]Examples[/bold]

      orpo chat runs/quickstart --compare
      orpo chat runs/quickstart --system "Answer briefly." --temperature 0.7
      printf 'Hello!\\nWhy is the sky blue?\\n' | orpo chat runs/quickstart
    """
    console = Console(quiet=quiet)
    sampling = make_sampling(max_new_tokens, temperature, top_p, seed, console)
    chat(run_or_model, sampling, console, compare=compare, system=system, chat_template=chat_template)
