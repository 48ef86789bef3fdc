"""`orpo push-to-hub`: upload the adapter or the models of a run to the hub, with a model card."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.filesize import decimal

from orpo_cli.card.run_contents import ALL, RunPart
from orpo_cli.cli.completion import complete_run_or_recipe
from orpo_cli.cli.options import Json, Quiet
from orpo_cli.errors import UsageError
from orpo_cli.report.console import Console
from orpo_cli.rundir import RunDir

if TYPE_CHECKING:
    from orpo_cli.hub.check import PushCheck
    from orpo_cli.hub.push import PushResult

PARTS = (*get_args(RunPart), ALL)


def _split_parts(values: list[str] | None) -> list[str]:
    """The values of --what, split at commas. Raises BadParameter for a value that is not one of ``PARTS``."""
    parts = [part.strip() for value in values or [] for part in value.split(",") if part.strip()]
    for part in parts:
        if part not in PARTS:
            raise typer.BadParameter(f"{part!r} is not one of {', '.join(map(repr, PARTS))}.")
    return parts


def _complete_part(incomplete: str) -> list[str]:
    return [part for part in PARTS if part.startswith(incomplete)]


def command(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", autocompletion=complete_run_or_recipe, help="Run directory; with --check also a recipe."
        ),
    ],
    repo_id: Annotated[
        str | None, typer.Argument(metavar="[NAMESPACE/NAME]", help="Repository; default: hub.repo_id of the recipe.")
    ] = None,
    what: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART",
            callback=_split_parts,
            autocompletion=_complete_part,
            help=f"Parts of the run to upload ({', '.join(PARTS)}); repeatable, or separated by commas; default: what the run "
            "trained.",
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
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Upload only files that match, such as '*.gguf'; repeatable."),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Do not upload files that match; repeatable.")
    ] = None,
    samples: Annotated[
        bool, typer.Option("--samples/--no-samples", help="Show answers to held-out prompts in the model card.")
    ] = True,
    accept_base_license: Annotated[
        bool,
        typer.Option(
            "--accept-base-license", help="Confirm that the license of a gated base model lets you publish its weights."
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace files of the repository that are not from this run; move a tag.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the files to upload, without any network request.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Ask the hub whether it would accept the push, and send nothing.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Upload the adapter or the models of a run to the hub, with a model card.

    A new repository is private unless you add --public. The token comes from
    HF_TOKEN or `hf auth login`, never from a recipe. To continue an interrupted
    upload, repeat the command: files that are already in the repository are not
    sent again, and files that somebody else added or changed there are not
    overwritten.

    --check exits with 7 if the hub would refuse the push (token, right, gated
    base, files of others), and with 6 if it cannot be reached. With a recipe it
    tells you before the training.

    [bold]Examples[/bold]

      orpo push-to-hub my.yaml me/my-adapter --check
      orpo push-to-hub runs/quickstart me/my-adapter --dry-run
      orpo push-to-hub runs/quickstart me/my-model --what merged,gguf --public
      orpo push-to-hub runs/quickstart --what all --revision try-2 --tag v2
      orpo push-to-hub runs/quickstart someone/model --create-pr
    """
    from orpo_cli.hub.push import PushRequest, push
    from orpo_cli.workflows.check_push import check_push

    if check and dry_run:
        raise UsageError("--check and --dry-run do not go together: --dry-run makes no request.", remedy="Use one.")
    console = Console(quiet=quiet, as_json=as_json)
    request = PushRequest(
        repo_id=repo_id,
        parts=what or (),
        include=include or (),
        exclude=exclude or (),
        samples=samples,
        private=private,
        revision=revision,
        create_pr=create_pr,
        tag=tag,
        commit_message=commit_message,
        accept_base_license=accept_base_license,
        force=force,
        dry_run=dry_run,
    )
    if check:
        checked = check_push(run, request, console)
        console.result(f"the hub accepts the push to {_describe(checked)}")
        console.document(checked)
        return
    result = push(RunDir.open(run), request, console.note)
    if result.status == "dry-run":
        console.note("dry run: nothing is sent")
        console.result(_listing(result))
    else:
        status = {"pushed": "pushed and compared", "unchanged": "unchanged: the repository has all files already"}
        console.note(f"{status[result.status]}: {len(result.files)} files, {decimal(result.size)}")
        console.result(result.pull_request or result.url)
    console.document(result)


def _describe(checked: PushCheck) -> str:
    visibility = "private" if checked.private else "public"
    state = f"{visibility}, exists" if checked.exists else f"new, {visibility}"
    return f"{checked.repo_id} ({state}), branch {checked.revision}: {', '.join(checked.what)}"


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
