"""Front matter of a model card: the YAML block that the hub reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orpo_cli.card.base_license import BaseLicense, hub_id
from orpo_cli.card.markdown import public_path
from orpo_cli.card.run_contents import RunPart
from orpo_cli.control_characters import one_line
from orpo_cli.redaction import redact
from orpo_cli.rundir import RunDir
from orpo_cli.secret_values import map_strings

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


def render_front_matter(rundir: RunDir, parts: Sequence[RunPart], name: str, base_license: BaseLicense | None) -> str:
    """The YAML block without secrets. It contains only ids that the hub can resolve, and no local path.

    ``name`` is the name in the model index.
    """
    from huggingface_hub import ModelCardData

    plan = rundir.read_plan()
    base = hub_id(plan.model.model_name_or_path)
    tags = ["orpo", "trl", "orpo-cli", "preference-optimization"]
    if plan.lora is not None:
        tags += ["qlora" if plan.quantization is not None else "lora"]
    if "gguf" in parts:
        tags += ["gguf"]
    library = {("adapter",): "peft", ("adapter", "gguf"): "peft", ("gguf",): "gguf"}.get(tuple(parts), "transformers")
    accuracy = preference_accuracy(rundir)
    sources = rundir.read_data_report().get("sources", [])
    hub_datasets = [str(source["location"]).removeprefix("hub:") for source in sources if is_from_hub(source)]
    base_license = base_license or BaseLicense()
    data = ModelCardData(
        base_model=base,
        base_model_relation=None if base is None else "adapter" if library == "peft" else "finetune",
        datasets=list(dict.fromkeys(hub_datasets)) or None,
        library_name=library,
        pipeline_tag="text-generation",
        tags=tags,
        license=base_license.license,
        license_name=base_license.license_name,
        license_link=base_license.license_link,
        model_name=name if accuracy is not None else None,
        eval_results=[accuracy] if accuracy is not None else None,
    )
    values: dict[str, Any] = data.to_dict()  # type: ignore[no-untyped-call]
    return f"---\n{_yaml_text(map_strings(values, redact))}---"


def _yaml_text(values: dict[str, Any]) -> str:
    """``values`` as YAML, each text on one line: no line of a name can end the front matter, for any reader."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if one_line(text) == text else '"')

    Dumper.add_representer(str, represent_text)
    width = float("inf")
    return str(yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=width))


def preference_accuracy(rundir: RunDir) -> EvalResult | None:
    """The fraction of held-out pairs whose chosen completion the trained model prefers, from `orpo eval`, else from the training."""
    from huggingface_hub import EvalResult

    evaluation, report = rundir.read_evaluation(), rundir.read_data_report()
    value = evaluation.get("models", {}).get("tuned", {}).get("rewards/accuracies")
    pairs = evaluation.get("pairs")
    if value is None:
        final = rundir.read_run().get("final_evaluation") or {}
        value, pairs = final.get("eval_rewards/accuracies"), final.get("eval_pairs") or report.get("eval_pairs")
    if not isinstance(value, int | float):
        return None
    source = _held_out_source(report)
    is_hub = is_from_hub(source)
    return EvalResult(
        task_type="text-generation",
        task_name="Preference",
        dataset_type=str(source["path"]) if is_hub else "preference-pairs",
        dataset_name=f"{public_path(source.get('path')) or 'preference pairs'}, {pairs or 'all'} held-out pairs",
        dataset_split=str(source["split"]) if is_hub and source.get("split") else None,
        dataset_revision=source.get("fingerprint") if is_hub else None,
        metric_type="accuracy",
        metric_name="Preference accuracy",
        metric_value=round(float(value), 4),
    )


def is_from_hub(source: dict[str, Any]) -> bool:
    """Whether a source of data_report.json is a dataset on the hub."""
    return str(source.get("location", "")).startswith("hub:")


def _held_out_source(report: dict[str, Any]) -> dict[str, Any]:
    """The source of the held-out pairs; the first source if they were split from the training data."""
    sources = report.get("sources") or [{}]
    return next((dict(source) for source in sources if source.get("part") == "eval"), dict(sources[0]))
