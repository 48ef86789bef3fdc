"""Sections of a model card, as Markdown; a section is empty if the run has no data for it."""

from __future__ import annotations

from typing import Any

from orpo_cli.card.base_license import BaseLicense, hub_id
from orpo_cli.card.curves import render_curves
from orpo_cli.card.front_matter import is_from_hub
from orpo_cli.card.markdown import base_text, code_block, code_span, escape_text, public_path
from orpo_cli.card.run_contents import CURVES_PATH
from orpo_cli.json_files import is_number
from orpo_cli.merging.merge_record import MergeRecord
from orpo_cli.planning.plan import Plan
from orpo_cli.report.benchmark_view import benchmark_settings, benchmark_table, benchmark_title
from orpo_cli.report.run_history import pairs_of_incomplete_step
from orpo_cli.rundir import RunDir

# Rows of the results table; names as in metrics.jsonl, without the prefix eval_ of evaluations.
_METRICS = (
    "loss",
    "nll_loss",
    "log_odds_ratio",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)
_METRICS_NOTE = (
    "`rewards/accuracies` is the fraction of pairs whose chosen completion has the higher mean log-probability; `rewards/margins` is "
    "beta times the difference of the mean log-probabilities."
)

MAX_SAMPLES, MAX_SAMPLE_CHARACTERS = 3, 800

CITATION_SECTION = """## Citation

```bibtex
@misc{hong2024orpo,
  title         = {ORPO: Monolithic Preference Optimization without Reference Model},
  author        = {Jiwoo Hong and Noah Lee and James Thorne},
  year          = {2024},
  eprint        = {2403.07691},
  archivePrefix = {arXiv},
  primaryClass  = {cs.CL}
}
```"""


def results_section(rundir: RunDir, plan: Plan) -> str:
    """Metrics of the first and last step, of the last evaluation, and of `orpo eval`."""
    lines = rundir.read_metrics()
    steps = [line for line in lines if "loss" in line]
    evaluations = [
        {name.removeprefix("eval_"): value for name, value in line.items()} for line in lines if "eval_loss" in line
    ]
    columns = {escape_text(f"step {line.get('step', '')}"): line for line in (*steps[:1], *steps[-1:])}
    if (few := pairs_of_incomplete_step(steps, plan.launch.pairs_per_step)) is not None:  # its numbers say little
        columns = {
            f"{title} ({few} pair{'s' * (few != 1)})" if line is steps[-1] else title: line
            for title, line in columns.items()
        }
    saved_step = (rundir.read_run().get("final_evaluation") or {}).get(
        "step"
    )  # of the best checkpoint, or the last one
    saved = [line for line in evaluations if line.get("step") == saved_step] or evaluations
    held_out = {_held_out_title(line): line for line in (*evaluations[:1], *saved[-1:])}
    measured, scored = rundir.read_evaluation(), {}
    for variant, metrics in measured.get("models", {}).items():
        same = next((title for title, line in held_out.items() if _has_numbers(line, metrics)), "")
        title = escape_text(f"{measured.get('pairs')} held-out pairs, {variant}")
        scored[title] = {**held_out.pop(same, {}), **metrics}
    table = _table({**columns, **held_out, **scored})
    if not table:
        return ""
    beta = plan.training.get("beta")
    parts = ["## Results", table, _METRICS_NOTE + (f" Here beta is {beta}." if beta is not None else "")]
    if render_curves(rundir) is not None:
        parts.append(f"![Training curves]({CURVES_PATH})")
    return "\n\n".join(parts)


def _has_numbers(line: dict[str, Any], metrics: dict[str, Any]) -> bool:
    """Whether a line of the training has all numbers of ``metrics``, to the digits that are shown."""
    names = [name for name in _METRICS if name in metrics]
    return bool(names) and all(_number(line.get(name)) == _number(metrics[name]) for name in names)


def _held_out_title(line: dict[str, Any]) -> str:
    pairs = f"{line['pairs']:.0f} held-out pairs" if "pairs" in line else "held out"
    step = line.get("step", "")
    return escape_text(f"{pairs}, {'base' if step == 0 else f'step {step}'}")


def benchmarks_section(rundir: RunDir) -> str:
    """Figures of `orpo benchmark`, with what decided them."""
    parts, run = [], rundir.read_run()
    for result in rundir.read_benchmarks():
        titles, rows = benchmark_table(result)
        head = f"| {' | '.join(map(escape_text, titles))} |\n| --- |{' ---: |' * (len(titles) - 1)}"
        body = [f"| {' | '.join(map(escape_text, row))} |" for row in rows]
        settings = [f"- {name}: {escape_text(text)}" for name, text in benchmark_settings(result, run)]
        parts.append(
            "\n\n".join([f"### {escape_text(benchmark_title(result))}", "\n".join([head, *body]), "\n".join(settings)])
        )
    if not parts:
        return ""
    note = (
        "In brackets: 95% confidence intervals, Wilson's for accuracies; won and lost: answers that only the tuned or only the "
        "base model gets right; p: exact McNemar test."
    )
    return "\n\n".join(["## Benchmarks", *parts, note])


def merge_section(rundir: RunDir) -> str:
    """How the merged model was verified."""
    record = MergeRecord.read(rundir.merged)
    if record is None:
        return ""
    packages = ", ".join(f"{name} {record.versions[name]}" for name in ("orpo-cli", "peft") if name in record.versions)
    verdict = record.verdict()
    how = f"into {base_text(record.base)} by {escape_text(packages)}, in {record.dtype}"
    text = f"The adapter was merged {how}. {verdict[0].upper()}{verdict[1:]}."
    if record.adapters:
        names = ", ".join(f"{escape_text(each['adapter'])} (weight {each['weight']:g})" for each in record.adapters)
        text = (
            f"The merged model has these adapters: {names}. They were merged {how}. {verdict[0].upper()}{verdict[1:]}. The figures of "
            "this card are those of the first one alone, with weight 1."
        )
    if record.into == "original":
        text += " The base was quantized in training; the adapter was merged into its original weights."
    return f"## Merge\n\n{text}"


def samples_section(rundir: RunDir) -> str:
    """Answers of the base model and the tuned model to the first prompts of `orpo generate --compare`."""
    document = rundir.read_samples()
    blocks = []
    for answer in document.get("answers", [])[:MAX_SAMPLES]:
        parts = [f"**Prompt**\n\n{code_block(_shorten(answer.get('prompt')))}"]
        for variant, title in (("base", "Before"), ("tuned", "After")):
            text = (answer.get(variant) or {}).get("text")
            if isinstance(text, str):
                parts.append(f"**{title}**\n\n{code_block(_shorten(text))}")
        blocks.append("\n\n".join(parts))
    if not blocks:
        return ""
    temperature = document.get("temperature")
    how = "with greedy decoding" if not temperature else f"sampled at temperature {escape_text(temperature)}"
    return "\n\n".join([f"## Before and after\n\nAnswers to held-out prompts, {how}.", *blocks])


def license_section(plan: Plan, base_license: BaseLicense | None, license_accepted: bool) -> str:
    """License and terms of the base; empty if they are unknown."""
    if base_license is None or (base_license.license is None and not base_license.gated):
        return ""
    base = plan.model.model_name_or_path
    link = f"[{base}](https://huggingface.co/{base})" if hub_id(base) else base_text(base)
    sentences = []
    if base_license.license:
        name = code_span(base_license.license_name or base_license.license)
        terms = f" ({escape_text(base_license.license_link)})" if base_license.license_link else ""
        sentences.append(f"The base model {link} has the license {name}{terms}; it also applies to this model.")
    if base_license.gated:
        sentences.append(f"{link} is gated: accept its terms there before you use this model.")
    if base_license.gated and license_accepted:
        sentences.append("The publisher of this model stated that these terms allow it.")
    return "## License\n\n" + " ".join(sentences)


def _trained_pairs(rundir: RunDir) -> int:
    """Pairs of all steps, those of a second epoch again; 0 where it is not recorded."""
    counted = [line["pairs"] for line in rundir.read_metrics() if is_number(line.get("pairs"))]
    return int(max(counted, default=0))


def data_section(rundir: RunDir) -> str:
    """Rows read, kept and dropped, with the reasons."""
    report = rundir.read_data_report()
    if not report:
        return ""
    sources = report.get("sources", [])
    rows = ["| part | source | format | rows read | kept | dropped |", "| --- | --- | --- | ---: | ---: | ---: |"]
    for source in sources:
        dropped = sum(source.get("dropped", {}).values())
        name = code_span(public_path(source.get("path")), in_table=True)
        part, split, kind = (escape_text(source.get(key) or "") for key in ("part", "split", "format"))
        rows.append(
            f"| {part} | {name} [{split}] | {kind} "
            f"| {source.get('rows_read', 0):,} | {source.get('kept', 0):,} | {dropped:,} |"
        )
    available, trained = report.get("train_pairs", 0), _trained_pairs(rundir)
    some = f"{trained:,} of " if 0 < trained < available else ""  # a run may end within its first epoch
    text = f"Trained on {some}{available:,} preference pairs; {report.get('eval_pairs', 0):,} were held out."
    parts = ["## Data", text]
    if sources:
        parts.append("\n".join(rows))
    descriptions, dropped = report.get("reasons", {}), report.get("dropped", {})
    revisions = dict.fromkeys(_revision(source) for source in sources if source.get("fingerprint"))
    drops = [
        f"- {count:,} dropped: {escape_text(descriptions.get(reason, reason))}" for reason, count in dropped.items()
    ]
    parts += ["\n".join(lines) for lines in (revisions, drops) if lines]
    if "max_length" in report:
        prompts, completions = report.get("truncated_prompts", 0), report.get("truncated_completions", 0)
        parts.append(
            f"At most {report['max_length']:,} tokens of a prompt with one completion, and at most {report.get('max_prompt_length', 0):,} of a truncated prompt; "
            f"{prompts:,} prompts and {completions:,} completions were truncated. Completions end with {code_span(report.get('end_of_turn'))}."
        )
    return "\n\n".join(parts)


def recipe_section(rundir: RunDir, plan: Plan) -> str:
    """The recipe that was trained. Local paths are names: nobody else has the directories."""
    text = rundir.read_recipe()
    if rundir.original_recipe.is_file():
        text = _published_recipe(text)
    if not text:
        return ""
    method = "all weights" if plan.lora is None else f"LoRA of rank {plan.lora.r}"
    if plan.quantization is not None:
        method += f" on a base in {4 if plan.quantization.load_in_4bit else 8} bits"
    return f"## Recipe\n\nTrained: {method}, in {plan.model.dtype}.\n\n{code_block(text, 'yaml')}"


def _published_recipe(text: str) -> str:
    """The values of a re-runnable recipe, without their origins; a local path is the name of its file."""
    import yaml

    from orpo_cli.recipe.source.yaml_writer import EnvReference, block_yaml

    def published(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: published(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [published(inner) for inner in value]
        return EnvReference(public_path(value)) if isinstance(value, str) else value

    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError:  # edited by hand
        return text
    return block_yaml(published(values)).strip()


def training_details_section(run: dict[str, Any]) -> str:
    """Versions, the revision of the base, the number of trained weights and the duration."""
    versions = {"orpo-cli": run.get("orpo_cli"), "python": run.get("python"), **(run.get("versions") or {})}
    listed = ", ".join(escape_text(f"{name} {version}") for name, version in versions.items() if version)
    lines = [f"- {listed}"] if listed else []
    model = run.get("model") or {}
    if model.get("revision"):
        lines.append(f"- base model at revision {code_span(model['revision'])}")
    if run.get("trainable_parameters"):
        lines.append(f"- {run['trainable_parameters']:,} of {model.get('parameters') or 0:,} weights trained")
    seconds = run.get("train_seconds") or run.get("seconds")  # of all attempts; of the last one in older runs
    if run.get("steps") and seconds:
        lines.append(f"- {run['steps']:,} steps in {seconds / 60:.1f} minutes, {escape_text(run.get('finished_at'))}")
    return "## Training details\n\n" + "\n".join(lines) if lines else ""


def _table(columns: dict[str, dict[str, Any]]) -> str:
    names = [name for name in _METRICS if any(name in column for column in columns.values())]
    if not names:
        return ""
    head = f"| | {' | '.join(columns)} |\n| --- |{' ---: |' * len(columns)}"
    rows = [f"| `{name}` | {' | '.join(_number(column.get(name)) for column in columns.values())} |" for name in names]
    return "\n".join([head, *rows])


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""


def _revision(source: dict[str, Any]) -> str:
    """The commit of a dataset on the hub, the fingerprint of a file."""
    mark, name = str(source.get("fingerprint")), code_span(public_path(source.get("path")))
    if is_from_hub(source):
        return f"- {name} at commit {code_span(mark)}"
    return f"- {name}: fingerprint {code_span(mark[:16])}"


def _shorten(value: Any) -> str:
    text = str(value or "").strip()
    return text if len(text) <= MAX_SAMPLE_CHARACTERS else text[:MAX_SAMPLE_CHARACTERS].rstrip() + " […]"
