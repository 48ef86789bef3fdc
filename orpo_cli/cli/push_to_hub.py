"""``orpo push-to-hub``: an adapter or a model onto the hub, with its card."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal

from orpo_cli.cli.options import Json, Quiet
from orpo_cli.report.console import Console
from orpo_cli.rundir import RunDir

if TYPE_CHECKING:
    from orpo_cli.artifacts.hub import PushResult


def command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run directory.")],
    repo_id: Annotated[
        str | None, typer.Argument(metavar="[NAMESPACE/NAME]", help="Repository; default: hub.repo_id of the recipe.")
    ] = None,
    what: Annotated[
        str | None,
        typer.Option(metavar="adapter|merged|model", help="What goes up; default: what the run trained."),
    ] = None,
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Visibility of a new repository; default: hub.private, else private."),
    ] = None,
    revision: Annotated[str | None, typer.Option(metavar="BRANCH", help="Branch to push to; default: main.")] = None,
    commit_message: Annotated[str | None, typer.Option(metavar="TEXT", help="Message of the commit.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would go up, and make no network call.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Push a run's adapter, merged model or model to the hub, with its card.

    A new repository is private unless you say --public. The token comes from
    HF_TOKEN or `hf auth login`, never from a recipe. An interrupted push is
    repeated with the same command: what is there does not go up again.

    [bold]Examples[/bold]

      orpo push-to-hub runs/quickstart me/my-adapter --dry-run
      orpo push-to-hub runs/quickstart me/my-model --what merged --public
      orpo push-to-hub runs/quickstart --revision try-2
    """
    from orpo_cli.artifacts.hub import push

    console = Console(quiet=quiet, as_json=as_json)
    result = push(
        RunDir.open(run),
        repo_id,
        what=what,
        private=private,
        revision=revision,
        commit_message=commit_message,
        dry_run=dry_run,
        note=console.note,
    )
    if result.status == "dry-run":
        console.note("nothing is sent: this is a dry run")
        console.result(_listing(result))
    else:
        words = {"pushed": "pushed and compared", "unchanged": "nothing new: the repository holds all of this already"}
        console.note(f"{words[result.status]}: {len(result.files)} files, {decimal(result.size)}")
        console.result(result.url)
    console.document(result.as_dict())


def _listing(result: PushResult) -> str:
    visibility = "private" if result.private else "public"
    lines = [
        f"to      {result.repo_id}, branch {result.revision} ({visibility} if it is new)",
        f"what    {result.what}: {len(result.files)} files, {decimal(result.size)}",
        f"commit  {result.commit_message}",
        "",
    ]
    return "\n".join([*lines, *(f"{decimal(file.size):>10}  {file.path_in_repo}" for file in result.files)])
