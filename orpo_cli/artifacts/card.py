"""The model card of a run: README.md with front matter that the hub reads."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from orpo_cli.artifacts.card_sections import (
    citation_section,
    data_section,
    made_with_section,
    recipe_section,
    results_section,
    usage_section,
)
from orpo_cli.artifacts.redaction import redacted
from orpo_cli.errors import OrpoError
from orpo_cli.model.location import locate
from orpo_cli.rundir import FINISHED, RunDir, write_atomically

What = Literal["adapter", "merged", "model"]

_MARK = "<!-- made by orpo-cli; a change by hand is kept: "


def render_card(rundir: RunDir, *, what: What, repo_id: str | None = None) -> str:
    """The card for the run's adapter, merged model or model. ``repo_id`` is where readers will find it."""
    plan, run = rundir.read_plan(), rundir.read_run()
    base = plan.model.model_name_or_path
    title = repo_id.partition("/")[2] if repo_id else plan.name
    product = {
        "adapter": f"A LoRA adapter for `{base}`",
        "merged": f"`{base}` with a LoRA adapter merged in",
        "model": f"A fine-tune of `{base}`",
    }[what]
    paper = "[ORPO](https://arxiv.org/abs/2403.07691) (odds ratio preference optimization)"
    body = [f"# {title}", f"{product}, trained on preference pairs with {paper}."]
    if run.get("status") != FINISHED:
        body.append(f"> The training did not finish: its status is `{run.get('status')}`.")
    body += [
        usage_section(rundir, plan, what, repo_id),
        results_section(rundir, plan),
        data_section(rundir),
        recipe_section(rundir, plan),
        made_with_section(run),
        citation_section(),
    ]
    text = "\n\n".join([_front_matter(rundir, what), *(part for part in body if part)]) + "\n"
    home = str(Path.home())
    return _marked(redacted(text) if home == "/" else redacted(text).replace(home, "~"))


def write_card(rundir: RunDir) -> None:
    """Write ``<run>/README.md`` for what the run trained, unless one is there that was changed by hand."""
    text, by_hand = fresh_card(rundir, what="model" if rundir.model.is_dir() else "adapter", repo_id=None)
    if not by_hand:
        write_atomically(rundir.card, text)


def fresh_card(rundir: RunDir, *, what: What, repo_id: str | None) -> tuple[str, bool]:
    """(card, whether somebody wrote it by hand): the README.md that is there if it was changed, else a new one."""
    if rundir.card.is_file():
        text = rundir.card.read_text(encoding="utf-8")
        if not _is_untouched(text):
            return text, True
    return render_card(rundir, what=what, repo_id=repo_id), False


def _marked(text: str) -> str:
    return f"{text}\n{_MARK}{hashlib.sha256(text.encode()).hexdigest()[:16]} -->\n"


def _is_untouched(text: str) -> bool:
    body, mark, _ = text.rpartition(f"\n{_MARK}")
    return bool(mark) and _marked(body) == text


def _front_matter(rundir: RunDir, what: What) -> str:
    """The block between the dashes. Only ids that the hub can resolve stand in it; local paths would be dead links."""
    from huggingface_hub import ModelCardData

    plan = rundir.read_plan()
    base = hub_id(plan.model.model_name_or_path)
    tags = ["orpo", "trl", "orpo-cli", "preference-optimization"]
    if plan.lora is not None:
        tags += ["qlora" if plan.quantization is not None else "lora"]
    data = ModelCardData(
        base_model=base,
        base_model_relation=None if base is None else "adapter" if what == "adapter" else "finetune",
        datasets=_hub_datasets(rundir) or None,
        library_name="peft" if what == "adapter" else "transformers",
        pipeline_tag="text-generation",
        tags=tags,
    )
    return f"---\n{data.to_yaml().strip()}\n---"


def hub_id(model: str) -> str | None:
    """``model`` if it is the id of a model on the hub, None for a path."""
    try:
        return model if locate(model).kind == "hub" else None
    except OrpoError:  # a path or package that is not on this machine
        return None


def _hub_datasets(rundir: RunDir) -> list[str]:
    from orpo_cli.artifacts.card_sections import read_report

    sources = read_report(rundir).get("sources", [])
    found = [str(source["location"]).removeprefix("hub:") for source in sources if _is_from_hub(source)]
    return list(dict.fromkeys(found))


def _is_from_hub(source: dict[str, object]) -> bool:
    return str(source.get("location", "")).startswith("hub:")
