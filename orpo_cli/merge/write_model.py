"""The merged model in a folder: tensor by tensor where that is understood, else in memory; configs and tokenizer beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.data.pair_encoder import end_token_ids
from orpo_cli.errors import MachineError
from orpo_cli.merge.adapter_layers import find_adapted_layers
from orpo_cli.merge.base_checkpoint import Checkpoint, UnsupportedCheckpoint, build_weight_map
from orpo_cli.merge.in_memory_merge import merge_in_memory
from orpo_cli.merge.memory_limit import memory_allowed, type_within
from orpo_cli.merge.merge_target import MergeTarget
from orpo_cli.merge.meta_model import build_meta_model, quantized_parameters
from orpo_cli.merge.peft_adapters import Adapter, adapter_names, load_adapters
from orpo_cli.merge.quantized_base import QuantizedBase
from orpo_cli.merge.sharded_merge import Progress, ShardedMerge, write_shards
from orpo_cli.merge.tensor_files import SafetensorsFile, TensorSpec
from orpo_cli.model.save import save_configs, save_model
from orpo_cli.training.allocator import keep_freed_memory
from orpo_cli.verify.resources import check_disk_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Note = Callable[[str], None]


@dataclass(frozen=True)
class WrittenModel:
    """A merged model on disk. ``digests``: of the bytes that were written, by name, where tensors were merged one by one."""

    method: str  # for merge.json
    eos_token_ids: list[int]  # every end token
    parameters: int
    vocab_size: int
    resized_vocab_size: int | None  # of the embedding, where it has grown
    largest_file: int  # of the base, in bytes
    tensors: dict[str, float] = field(default_factory=dict)
    untied: frozenset[str] = frozenset()
    digests: dict[str, int] = field(default_factory=dict)


def write_merged_model(
    folder: Path,
    target: MergeTarget,
    tokenizer: PreTrainedTokenizerBase,
    note: Note,
    progress: Progress,
    memory: int | None,
) -> WrittenModel:
    """Write the whole merged model to ``folder``; ``memory``: bytes the process may hold, where the user said so."""
    keep_freed_memory()  # the next weight takes the place of the last
    model = build_meta_model(target.source)
    rows = _resized_vocab_size(model, target.adapters[0], tokenizer)
    if rows is not None:
        note(f"the vocabulary has grown to {rows} tokens")
        model = build_meta_model(target.source, rows)
    model.generation_config = _generation_config(target, model)
    parameters = sum(each.numel() for each in model.parameters())
    try:
        checkpoint = Checkpoint.from_source(target.source)
        merging = _prepare(model, checkpoint, target, rows)
    except UnsupportedCheckpoint as reason:
        return _write_in_memory(folder, target, tokenizer, model, rows, parameters, str(reason), note, memory)
    specs = merging.output_specs()
    check_disk_for(target.output, sum(spec.bytes for spec in specs.values()))
    note(f"merging {', '.join(str(each.folder) for each in target.adapters)} into {target.section.model_name_or_path}")
    write_shards(merging, folder, target.max_shard_size, progress)
    if merging.untied:
        note(f"the adapter makes {', '.join(merging.untied)} differ from what it was tied to: it is stored apart")
        for config in (model.config, model.config.get_text_config()):
            config.tie_word_embeddings = False
    ends = end_token_ids(model, tokenizer)
    save_configs(model, tokenizer, ends, folder, target.dtype)
    return WrittenModel(
        method="tensor by tensor",
        eos_token_ids=ends,
        parameters=parameters,
        vocab_size=model.config.get_text_config().vocab_size,
        resized_vocab_size=rows,
        largest_file=checkpoint.largest_file_bytes(),
        tensors={
            "written": len(specs),
            "changed": len(
                {name for site in merging.adapted_layers.layers for name in site.parameters.values()}
                | set(merging.adapted_layers.full_weights)
            ),
            "max_output_difference": max(merging.output_differences.values(), default=0.0),
        },
        untied=frozenset(merging.untied),
        digests=merging.digests,
    )


def _prepare(model: PreTrainedModel, checkpoint: Checkpoint, target: MergeTarget, rows: int | None) -> ShardedMerge:
    """Everything that is known before the first weight is written. The adapters are put on a model of their own."""
    from transformers.pytorch_utils import Conv1D

    if getattr(model.config, "quantization_config", None) is not None:
        raise UnsupportedCheckpoint(f"{target.section.model_name_or_path} is quantized on disk")
    weights = build_weight_map(model, checkpoint)
    linear = {name for name, module in model.named_modules() if isinstance(module, Conv1D)}
    quantization = target.merged_quantization
    quantized = quantized_parameters(target.source, quantization) if quantization is not None else set()
    tuned = load_adapters(build_meta_model(target.source, rows), target.adapters, on_meta_model=True)
    starts = {
        name: getattr(each.config, "init_lora_weights", True)
        for name, each in zip(adapter_names(target.adapters), target.adapters, strict=True)
    }
    merging = ShardedMerge(
        checkpoint,
        weights,
        find_adapted_layers(tuned, starts, set(model.state_dict())),
        QuantizedBase(
            dtype=target.section.dtype,
            quantization=quantization,
            quantized=quantized,
            transposed={f"{name}.weight" for name in linear},
            device=_quantization_device(target),
        ),
        target.dtype,
    )
    merging.find_untied_parameters()
    return merging


def _quantization_device(target: MergeTarget) -> str:
    """Where training quantized the base, if it is here."""
    import torch

    return "cuda" if target.device == "cuda" and torch.cuda.is_available() else "cpu"


def _write_in_memory(
    folder: Path,
    target: MergeTarget,
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    rows: int | None,
    parameters: int,
    reason: str,
    note: Note,
    memory: int | None,
) -> WrittenModel:
    import psutil
    import torch

    size = parameters * getattr(torch, target.dtype).itemsize
    check_disk_for(target.output, size)
    available = psutil.virtual_memory().available + psutil.Process().memory_info().rss
    dtype = type_within(parameters, 0, target.dtype, memory_allowed(0, memory or available))
    if dtype is None:
        raise MachineError(
            f"{reason}, so the model must be merged in memory, which takes {size * 1.1 / 1e9:.1f} GB; "
            f"{available / 1e9:.1f} GB are available.",
            remedy="Use a machine with more memory.",
        )
    note(f"merging in memory, in {dtype}: {reason}")
    merged = merge_in_memory(target, rows, dtype)
    merged.generation_config = model.generation_config
    ends = end_token_ids(merged, tokenizer)
    save_model(merged.to(getattr(torch, target.dtype)), tokenizer, ends, folder, target.max_shard_size)
    vocabulary = merged.config.get_text_config().vocab_size
    files = list(folder.glob("*.safetensors"))
    written = sum(len(SafetensorsFile(each).specs) for each in files)
    return WrittenModel(
        method=f"in memory: {reason}",
        eos_token_ids=ends,
        parameters=parameters,
        vocab_size=vocabulary,
        resized_vocab_size=rows,
        largest_file=max([2 * parameters * 4, *(each.stat().st_size for each in files)]),
        tensors={"written": written},
    )


def _resized_vocab_size(model: PreTrainedModel, adapter: Adapter, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """How many tokens the trained model knew, where that is not what the base's configuration says.

    An adapter that holds the whole embedding says it best; else a tokenizer that came with it has more than the base.
    """
    embedding = model.get_input_embeddings()
    rows = int(embedding.weight.shape[0])
    name = next(name for name, module in model.named_modules() if module is embedding)
    specs = _adapter_specs(adapter.folder)
    for key in (f"base_model.model.{name}.weight", f"base_model.model.{name}.base_layer.weight"):
        if key in specs:
            return specs[key].shape[0] if specs[key].shape[0] != rows else None
    return len(tokenizer) if len(tokenizer) > rows else None


def _adapter_specs(folder: Path) -> dict[str, TensorSpec]:
    from peft import load_peft_weights

    path = folder / "adapter_model.safetensors"
    if path.is_file():
        return SafetensorsFile(path).specs
    return {name: TensorSpec.of(tensor) for name, tensor in load_peft_weights(str(folder), device="cpu").items()}


def _generation_config(target: MergeTarget, model: PreTrainedModel) -> object:
    """The base's own, else the one that transformers derives from its configuration."""
    from transformers import GenerationConfig

    options = target.source.hub_options
    options.pop("trust_remote_code")
    try:
        return GenerationConfig.from_pretrained(target.source.pretrained_name, **options)
    except OSError:  # it has none
        return model.generation_config
