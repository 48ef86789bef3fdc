"""mlx-lm adapters: names of their weights and a configuration for PEFT.

mlx-lm multiplies a row by matrices of the shapes (inputs, rank) and (rank, outputs), and adds ``scale`` times the result
(https://github.com/ml-explore/mlx-lm/blob/main/mlx_lm/tuner/lora.py). PEFT has them transposed, and ``lora_alpha / r`` for ``scale``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orpo_cli.errors import UsageError
from orpo_cli.json_files import read_json_object
from orpo_cli.merging.tensor_files import TensorSpec

WEIGHTS_FILE = "adapters.safetensors"
_PEFT_NAMES = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "m": "lora_magnitude_vector"}
_EMBEDDING_NAMES = {"lora_a": "lora_embedding_A", "lora_b": "lora_embedding_B"}


def is_mlx_adapter(folder: Path) -> bool:
    """Whether the folder contains an adapter of mlx-lm."""
    return (folder / WEIGHTS_FILE).is_file() and not (folder / "adapter_model.safetensors").is_file()


def mlx_names(folder: Path, specs: Mapping[str, TensorSpec]) -> dict[str, str]:
    """PEFT's name for each weight. Raises UsageError for weights that PEFT has no place for."""
    kind = read_json_object(folder / "adapter_config.json").get("fine_tune_type", "lora")
    found = {}
    for name, spec in specs.items():
        layer, _, part = name.rpartition(".")
        embedding = layer.endswith(("embed_tokens", "wte"))
        names = _EMBEDDING_NAMES if embedding else _PEFT_NAMES
        if kind not in ("lora", "dora") or part not in names or len(spec.shape) > 2:
            reason = (
                f"fine_tune_type is {kind}: it has complete weights, not an adapter"
                if kind not in ("lora", "dora")
                else f"{name} of shape {spec.shape} has no counterpart in PEFT"
            )
            raise UsageError(
                f"{folder} is an adapter of mlx-lm, and {reason}.",
                remedy="Merge it with mlx-lm: `mlx_lm.fuse --model MODEL --adapter-path ADAPTER`.",
            )
        found[name] = f"base_model.model.{layer}.{names[part]}"
    return found


def write_mlx_config(
    source: Path, folder: Path, sources: Mapping[str, str], specs: Mapping[str, TensorSpec], embedding: str
) -> None:
    """Write PEFT's adapter_config.json to ``folder``. ``sources``: weight of mlx-lm by PEFT's name."""
    from peft import LoraConfig

    config = read_json_object(source / "adapter_config.json")
    parameters = config.get("lora_parameters")
    scale = parameters.get("scale") if isinstance(parameters, dict) else None
    if not isinstance(scale, int | float):
        raise UsageError(
            f"{source}/adapter_config.json has no lora_parameters.scale, the factor of the adapter.",
            remedy="Add the value that was used in training.",
        )
    layers = sorted({name.removeprefix("base_model.model.").partition(".lora_")[0] for name in sources})
    rank = next(specs[each].shape[1] for name, each in sources.items() if "_A" in name)
    if isinstance(parameters, dict) and parameters.get("alpha", rank) != rank:
        raise UsageError(
            f"{source}/adapter_config.json has lora_parameters.alpha {parameters['alpha']}, the rank is {rank}: early versions of "
            "mlx-lm multiply scale by alpha / rank, later ones ignore alpha.",
            remedy="Set scale to the factor that was used in training, and remove alpha.",
        )
    dora = any("lora_magnitude_vector" in name for name in sources)
    if dora and embedding in layers:
        raise UsageError(
            f"{source} is an adapter of mlx-lm with DoRA on the embedding, which PEFT computes in another way.",
            remedy="Merge it with mlx-lm: `mlx_lm.fuse --model MODEL --adapter-path ADAPTER`.",
        )
    LoraConfig(
        r=rank, lora_alpha=scale * rank, target_modules=layers, use_dora=dora, task_type="CAUSAL_LM"
    ).save_pretrained(folder)
