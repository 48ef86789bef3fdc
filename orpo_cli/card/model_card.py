"""Model card of a run: README.md with front matter for the hub. A card that was edited by hand is kept."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence

from orpo_cli.atomic import atomic_write_text
from orpo_cli.card import sections
from orpo_cli.card.base_license import BaseLicense, read_local_license
from orpo_cli.card.curves import write_curves
from orpo_cli.card.front_matter import render_front_matter
from orpo_cli.card.markdown import base_text, code_span, escape_text
from orpo_cli.card.run_contents import RunPart
from orpo_cli.card.usage import usage_section
from orpo_cli.errors import UsageError
from orpo_cli.redaction import redact
from orpo_cli.run_attempts import FINISHED
from orpo_cli.rundir import RunDir

_CHECKSUM_COMMENT = "<!-- made by orpo-cli; a change by hand is kept: "


def render_card(
    rundir: RunDir,
    *,
    parts: RunPart | Sequence[RunPart],
    repo_id: str | None = None,
    base_license: BaseLicense | None = None,
    license_accepted: bool = False,
    samples: bool = True,
) -> str:
    """The card of one or several parts of a run, with secrets redacted.

    ``repo_id`` is the repository that the usage examples load from. ``license_accepted``: the user confirmed that the terms
    of a gated base allow the publication. ``samples``: show answers to held-out prompts.
    """
    if isinstance(parts, str):
        parts = (parts,)
    plan, run = rundir.read_plan(), rundir.read_run()
    base = base_text(plan.model.model_name_or_path)
    title = repo_id.partition("/")[2] if repo_id else plan.name
    descriptions = {
        "adapter": f"a LoRA adapter for {base}",
        "merged": f"{base} with a LoRA adapter merged in",
        "model": f"a fine-tune of {base}",
        "gguf": f"GGUF files of a fine-tune of {base}" if len(parts) == 1 else "the same as GGUF files",
    }
    description = ", and ".join(
        descriptions[part] for part in sorted(parts, key=("merged", "model", "adapter", "gguf").index)
    )
    paper = "[ORPO](https://arxiv.org/abs/2403.07691) (odds ratio preference optimization)"
    body = [
        f"# {escape_text(title)}",
        f"{description[0].upper()}{description[1:]}, trained on preference pairs with {paper}.",
    ]
    if run.get("status") != FINISHED:
        body.append(f"> The training did not finish: its status is {code_span(run.get('status'))}.")
    body += [
        usage_section(rundir, plan, parts, repo_id),
        sections.results_section(rundir, plan),
        sections.benchmarks_section(rundir),
        sections.merge_section(rundir) if "merged" in parts else "",
        sections.samples_section(rundir) if samples else "",
        sections.data_section(rundir),
        sections.recipe_section(rundir, plan),
        sections.training_details_section(run),
        sections.license_section(plan, base_license, license_accepted),
        sections.CITATION_SECTION,
    ]
    front_matter = render_front_matter(rundir, parts, title, base_license)
    text = f"{front_matter}\n\n" + redact("\n\n".join(filter(None, body)) + "\n")
    home = os.path.expanduser("~")  # "~" where the user has no home
    paths_below_home = re.compile(rf"(?<![\w./~-]){re.escape(home)}(?![\w.-])")
    return _with_checksum(text if home == "/" else paths_below_home.sub("~", text))


def write_card(rundir: RunDir) -> None:
    """Write ``<run>/README.md`` for the trained part, and the curves; a card that was edited by hand is kept."""
    write_curves(rundir)
    if not _is_edited(_card_text(rundir, errors="replace")):  # what is not UTF-8 was edited
        base_license = read_local_license(rundir.read_plan().model.model_name_or_path)
        part: RunPart = "model" if rundir.model.is_dir() else "adapter"
        atomic_write_text(rundir.card, render_card(rundir, parts=part, base_license=base_license))


def edited_card(rundir: RunDir) -> str | None:
    """The card of the run if it was edited by hand, else None. Raises UsageError where it is not UTF-8, as the hub needs it."""
    try:
        text = _card_text(rundir)
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{rundir.card} is not UTF-8: byte {error.start + 1} is wrong.",
            remedy="Save it as UTF-8, or remove it: then a card is written again.",
        ) from error
    return text if _is_edited(text) else None


def _card_text(rundir: RunDir, errors: str = "strict") -> str:
    return rundir.card.read_text(encoding="utf-8", errors=errors) if rundir.card.is_file() else ""


def _is_edited(text: str) -> bool:
    return bool(text) and not _is_generated(text)


def _with_checksum(text: str) -> str:
    return f"{text}\n{_CHECKSUM_COMMENT}{hashlib.sha256(text.encode()).hexdigest()[:16]} -->\n"


def _is_generated(text: str) -> bool:
    body, mark, _ = text.rpartition(f"\n{_CHECKSUM_COMMENT}")
    return bool(mark) and _with_checksum(body) == text
