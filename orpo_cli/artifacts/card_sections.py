"""The sections of a model card, each as Markdown; empty where the run has nothing to say."""

from __future__ import annotations

import json
from typing import Any

from orpo_cli.plan.plan import Plan
from orpo_cli.rundir import RunDir

# What readers ask first, in this order; names as in metrics.jsonl, where evaluations have eval_ in front.
_SHOWN = (
    "loss",
    "nll_loss",
    "log_odds_ratio",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)
_MEANING = (
    "`rewards/accuracies` is the share of pairs whose chosen answer the model finds more probable; `rewards/margins` is "
    "beta times the difference of the mean log-probabilities."
)


def usage_section(rundir: RunDir, plan: Plan, what: str, repo_id: str | None) -> str:
    """Code that loads and asks the model."""
    folder = {"adapter": rundir.adapter, "merged": rundir.merged, "model": rundir.model}[what]
    name = repo_id or folder.name
    if what == "adapter":
        load = f"""from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{plan.model.model_name_or_path}", dtype="auto")
model = PeftModel.from_pretrained(model, "{name}")"""
    else:
        load = f"""from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{name}", dtype="auto")"""
    if (folder / "chat_template.jinja").is_file():
        ask = """messages = [{"role": "user", "content": "Why is the sky blue?"}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")"""
    else:
        ask = 'inputs = tokenizer("The sky is blue because", return_tensors="pt")'
    code = f"""{load}
tokenizer = AutoTokenizer.from_pretrained("{name}")

{ask}
output = model.generate(**inputs, max_new_tokens=256)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))"""
    return f"## Use\n\n```python\n{code}\n```"


def results_section(rundir: RunDir, plan: Plan) -> str:
    """First and last figures of training, the last evaluation, and what `orpo eval` measured."""
    lines = _metrics(rundir)
    steps = [line for line in lines if "loss" in line]
    evaluations = [
        {name.removeprefix("eval_"): value for name, value in line.items()} for line in lines if "eval_loss" in line
    ]
    columns: dict[str, dict[str, Any]] = {}
    if steps:
        columns[f"step {steps[0].get('step', '')}"] = steps[0]
        columns[f"step {steps[-1].get('step', '')}"] = steps[-1]
    if evaluations:
        columns[f"held out, step {evaluations[-1].get('step', '')}"] = evaluations[-1]
    measured = _read(rundir.evaluation)
    for voice, metrics in measured.get("models", {}).items():
        columns[f"{measured.get('pairs')} held-out pairs, {voice}"] = metrics
    table = _table(columns)
    if not table:
        return ""
    beta = plan.training.get("beta")
    return f"## Results\n\n{table}\n\n{_MEANING}" + (f" Here beta is {beta}." if beta is not None else "")


def data_section(rundir: RunDir) -> str:
    """What was read, kept and dropped, and why."""
    report = read_report(rundir)
    if not report:
        return ""
    rows = ["| part | source | format | rows read | kept | dropped |", "| --- | --- | --- | ---: | ---: | ---: |"]
    for source in report.get("sources", []):
        dropped = sum(source.get("dropped", {}).values())
        name = _cell(source.get("path"))
        rows.append(
            f"| {_cell(source.get('part'))} | `{name}` [{_cell(source.get('split'))}] | {_cell(source.get('format'))} "
            f"| {source.get('rows_read', 0):,} | {source.get('kept', 0):,} | {dropped:,} |"
        )
    text = (
        f"Trained on {report.get('train_pairs', 0):,} preference pairs; {report.get('eval_pairs', 0):,} were held out."
    )
    parts = ["## Data", text]
    if report.get("sources"):
        parts.append("\n".join(rows))
    meaning = report.get("reasons", {})
    drops = [
        f"- {count:,} dropped: {meaning.get(reason, reason)}" for reason, count in report.get("dropped", {}).items()
    ]
    if drops:
        parts.append("\n".join(drops))
    if "max_length" in report:
        cut, answers = report.get("truncated_prompts", 0), report.get("truncated_completions", 0)
        parts.append(
            f"At most {report['max_length']:,} tokens a pair, {report.get('max_prompt_length', 0):,} of them prompt where one was cut; "
            f"{cut:,} prompts and {answers:,} answers were cut to that. Answers end in `{report.get('end_of_turn')}`."
        )
    return "\n\n".join(parts)


def recipe_section(rundir: RunDir, plan: Plan) -> str:
    """The recipe as it was written or, where it extends another one, as a whole."""
    file = rundir.composed if rundir.composed.is_file() else rundir.recipe
    if not file.is_file():
        return ""
    text = file.read_text(encoding="utf-8").strip()
    fence = "```"
    while fence in text:
        fence += "`"
    how = "every weight" if plan.lora is None else f"LoRA of rank {plan.lora.r}"
    if plan.quantization is not None:
        how += f" on a base in {4 if plan.quantization.load_in_4bit else 8} bits"
    return f"## Recipe\n\nTrained: {how}, in {plan.model.dtype}.\n\n{fence}yaml\n{text}\n{fence}"


def made_with_section(run: dict[str, Any]) -> str:
    """Versions and revisions."""
    versions = {"orpo-cli": run.get("orpo_cli"), "python": run.get("python"), **(run.get("versions") or {})}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    lines = [f"- {listed}"] if listed else []
    model = run.get("model") or {}
    if model.get("revision"):
        lines.append(f"- base model at revision `{model['revision']}`")
    if run.get("trainable_parameters"):
        lines.append(f"- {run['trainable_parameters']:,} of {model.get('parameters') or 0:,} weights trained")
    if run.get("steps") and run.get("seconds"):
        lines.append(f"- {run['steps']:,} steps in {run['seconds'] / 60:.1f} minutes, {run.get('finished_at')}")
    return "## Made with\n\n" + "\n".join(lines) if lines else ""


def citation_section() -> str:
    """The paper."""
    return """## Citation

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


def read_report(rundir: RunDir) -> dict[str, Any]:
    """The content of data_report.json; empty where there is none."""
    return _read(rundir.data_report)


def _read(path: Any) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _metrics(rundir: RunDir) -> list[dict[str, Any]]:
    if not rundir.metrics.is_file():
        return []
    lines = []
    for line in rundir.metrics.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:  # the last line of a killed run
            continue
    return lines


def _table(columns: dict[str, dict[str, Any]]) -> str:
    names = [name for name in _SHOWN if any(name in column for column in columns.values())]
    if not names:
        return ""
    head = f"| | {' | '.join(columns)} |\n| --- |{' ---: |' * len(columns)}"
    rows = [f"| `{name}` | {' | '.join(_number(column.get(name)) for column in columns.values())} |" for name in names]
    return "\n".join([head, *rows])


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""


def _cell(value: Any) -> str:
    return str(value or "").replace("|", "\\|").replace("\n", " ")
