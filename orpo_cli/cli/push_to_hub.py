"""``orpo push-to-hub``: what a run made onto the hub, with its card."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal

from orpo_cli.cli.options import Json, Quiet
from orpo_cli.report.console import Console
from orpo_cli.rundir import RunDir

if TYPE_CHECKING:
    from orpo_cli.hub.push import PushResult


def command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run directory.")],
    repo_id: Annotated[
        str | None, typer.Argument(metavar="[NAMESPACE/NAME]", help="Repository; default: hub.repo_id of the recipe.")
    ] = None,
    what: Annotated[
        list[str] | None,
        typer.Option(
            metavar="adapter|merged|model|gguf|all",
            help="What goes up; repeatable, or with commas; default: what the run trained.",
        ),
    ] = None,
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Visibility of a new repository; default: hub.private, else private."),
    ] = None,
    revision: Annotated[str | None, typer.Option(metavar="BRANCH", help="Branch to push to; default: main.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of committing.")] = False,
    tag: Annotated[str | None, typer.Option(metavar="NAME", help="Tag the commit.")] = None,
    commit_message: Annotated[str | None, typer.Option(metavar="TEXT", help="Message of the commit.")] = None,
    include: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Only files that match, such as '*.gguf'; repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="No files that match; repeatable.")
    ] = None,
    samples: Annotated[
        bool, typer.Option("--samples/--no-samples", help="Whether the card shows answers to held-out prompts.")
    ] = True,
    accept_base_license: Annotated[
        bool, typer.Option("--accept-base-license", help="Its terms let you publish weights of a gated base.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace files there that are not from this run; move a tag.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would go up, and make no network call.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Push what a run made to the hub, with its card.

    A new repository is private unless you say --public. The token comes from
    HF_TOKEN or `hf auth login`, never from a recipe. An interrupted push is
    repeated with the same command: what is there does not go up again, and
    what somebody else put or changed there is not overwritten.

    [bold]Examples[/bold]

      orpo push-to-hub runs/quickstart me/my-adapter --dry-run
      orpo push-to-hub runs/quickstart me/my-model --what merged,gguf --public
      orpo push-to-hub runs/quickstart --what all --revision try-2 --tag v2
      orpo push-to-hub runs/quickstart someone/model --create-pr
    """
    from orpo_cli.hub.push import Choice, push

    console = Console(quiet=quiet, as_json=as_json)
    result = push(
        RunDir.open(run),
        repo_id,
        choice=Choice(tuple(what or ()), tuple(include or ()), tuple(exclude or ()), samples),
        private=private,
        revision=revision,
        create_pr=create_pr,
        tag=tag,
        commit_message=commit_message,
        accept_base_license=accept_base_license,
        force=force,
        dry_run=dry_run,
        note=console.note,
    )
    if result.status == "dry-run":
        console.note("nothing is sent: this is a dry run")
        console.result(_listing(result))
    else:
        words = {"pushed": "pushed and compared", "unchanged": "nothing new: the repository holds all of this already"}
        console.note(f"{words[result.status]}: {len(result.files)} files, {decimal(result.size)}")
        console.result(result.pull_request or result.url)
    console.document(result.as_dict())


def _listing(result: PushResult) -> str:
    visibility = "private" if result.private else "public"
    lines = [
        f"to      {result.repo_id}, branch {result.revision} ({visibility} if it is new)",
        f"what    {', '.join(result.what)}: {len(result.files)} files, {decimal(result.size)}",
        f"commit  {result.commit_message}",
        *([f"tag     {result.tag}"] if result.tag else []),
        "",
        *(f"{decimal(file.size):>10}  {file.path_in_repo}" for file in result.files),
        "",
        "README.md:",
        "",
        result.card.rstrip(),
    ]
    return "\n".join(lines)
