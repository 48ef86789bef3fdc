"""Writing of the merged model: tensor by tensor if the base's checkpoint is supported, else in memory by PEFT."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.data.pair_encoder import end_token_ids
from orpo_cli.errors import RunError, UsageError
from orpo_cli.merging.adapter_formats import open_weights
from orpo_cli.merging.adapter_layers import find_adapted_layers
from orpo_cli.merging.base_checkpoint import Checkpoint, UnsupportedCheckpoint, build_weight_map
from orpo_cli.merging.merge_target import MergeTarget
from orpo_cli.merging.meta_model import build_meta_model, quantized_parameters
from orpo_cli.merging.peft_adapters import adapter_names, load_adapters
from orpo_cli.merging.quantized_base import QuantizedBase
from orpo_cli.merging.sharded_merge import Progress, ShardedMerge, write_shards
from orpo_cli.merging.tensor_files import SafetensorsFile
from orpo_cli.merging.unmerged_model import load_merge_base
from orpo_cli.merging.vocabulary import resized_vocabulary
from orpo_cli.model.save import save_configs, save_model
from orpo_cli.training.allocator import keep_freed_memory
from orpo_cli.verify.resources import check_disk_space, choose_compute_dtype, dtype_bytes, memory_shortage

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Note = Callable[[str], None]


@dataclass(frozen=True)
class WrittenModel:
    """A merged model on disk. ``digests``: of the written bytes by tensor name, if tensors were merged one by one."""

    method: str  # "way" in merge.json
    eos_token_ids: list[int]
    parameters: int
    vocab_size: int
    resized_vocab_size: int | None  # if training changed the size of the vocabulary
    adapter_bytes: int  # memory of the loaded adapters
    tensors: dict[str, float] = field(default_factory=dict)
    untied: frozenset[str] = frozenset()
    digests: dict[str, int] = field(default_factory=dict)


def write_merged_model(
    folder: Path,
    target: MergeTarget,
    tokenizer: PreTrainedTokenizerBase,
    note: Note,
    progress: Progress,
) -> WrittenModel:
    """Write the merged model to ``folder``."""
    keep_freed_memory()  # the allocator reuses the memory of the last weight for the next one
    model = build_meta_model(target.source)
    resized_vocab_size = resized_vocabulary(model, target.adapters[0], tokenizer, note)
    if resized_vocab_size is not None:
        model = build_meta_model(target.source, resized_vocab_size)
    model.generation_config = target.source.generation_config()
    try:
        checkpoint = Checkpoint.from_source(target.source)
        merge = _prepare(model, checkpoint, target, resized_vocab_size)
    except UnsupportedCheckpoint as reason:
        return _merge_in_memory(folder, target, tokenizer, model, resized_vocab_size, str(reason), note)
    specs = merge.output_specs()
    check_disk_space(target.output, sum(spec.bytes for spec in specs.values()))
    note(f"merging {', '.join(str(each.folder) for each in target.adapters)} into {target.section.model_name_or_path}")
    write_shards(merge, folder, target.max_shard_size, progress)
    if merge.untied:
        note(f"the adapter changes {', '.join(merge.untied)}, which the base ties to another weight: saved separately")
        for config in (model.config, model.config.get_text_config()):
            config.tie_word_embeddings = False
    eos_token_ids = end_token_ids(model, tokenizer)
    save_configs(model, tokenizer, eos_token_ids, folder, target.dtype)
    return WrittenModel(
        method="tensor by tensor",
        eos_token_ids=eos_token_ids,
        parameters=sum(each.numel() for each in model.parameters()),
        vocab_size=model.config.get_text_config().vocab_size,
        resized_vocab_size=resized_vocab_size,
        adapter_bytes=_adapter_bytes(target),
        tensors={
            "written": len(specs),
            "changed": len(merge.adapted_layers.changed_parameters()),
            "max_output_difference": max(merge.output_differences.values(), default=0.0),
        },
        untied=frozenset(merge.untied),
        digests=merge.digests,
    )


def _prepare(
    model: PreTrainedModel, checkpoint: Checkpoint, target: MergeTarget, vocab_size: int | None
) -> ShardedMerge:
    """The merge before its first weight is read. The adapters are loaded on a second meta model."""
    from transformers.pytorch_utils import Conv1D

    if getattr(model.config, "quantization_config", None) is not None:
        raise UnsupportedCheckpoint(f"{target.section.model_name_or_path} is quantized on disk")
    weights = build_weight_map(model, checkpoint)
    quantization = target.merged_quantization
    quantized = quantized_parameters(target.source, quantization) if quantization is not None else set()
    peft_model = load_adapters(build_meta_model(target.source, vocab_size), target.adapters, on_meta_model=True)
    init_lora_weights = {
        name: getattr(each.config, "init_lora_weights", True)
        for name, each in zip(adapter_names(target.adapters), target.adapters, strict=True)
    }
    merge = ShardedMerge(
        checkpoint,
        weights,
        find_adapted_layers(peft_model, init_lora_weights, set(model.state_dict())),
        QuantizedBase(
            dtype=target.section.dtype,
            quantization=quantization,
            quantized=quantized,
            transposed={f"{name}.weight" for name, each in model.named_modules() if isinstance(each, Conv1D)},
            device=target.quantization_device,
        ),
        target.dtype,
    )
    merge.find_untied_parameters()
    return merge


def _merge_in_memory(
    folder: Path,
    target: MergeTarget,
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    vocab_size: int | None,
    reason: str,
    note: Note,
) -> WrittenModel:
    """Write the merged model, computed by PEFT on the CPU. Raises MachineError if disk space or memory is short."""
    import torch

    parameters = sum(each.numel() for each in model.parameters())
    check_disk_space(target.output, parameters * dtype_bytes(target.dtype))
    dtype = choose_compute_dtype(parameters, target.dtype, limit=target.memory_limit)
    if dtype is None:
        raise memory_shortage(parameters, target.dtype, f"{reason}, so the model must be merged in memory")
    note(f"merging in memory, in {dtype}: {reason}")
    peft_model = load_adapters(load_merge_base(target, vocab_size, dtype), target.adapters)
    _check_tied_layers(peft_model)
    try:
        merged = peft_model.merge_and_unload(safe_merge=True, adapter_names=adapter_names(target.adapters))
    except ValueError as error:  # raised by PEFT for weights that are not finite
        raise RunError(f"{target.adapter}: {error}", remedy="The adapter is broken: train again.") from error
    merged.generation_config = model.generation_config
    eos_token_ids = end_token_ids(merged, tokenizer)
    save_model(merged.to(getattr(torch, target.dtype)), tokenizer, eos_token_ids, folder, target.max_shard_size)
    parameters = sum(each.numel() for each in merged.parameters())
    files = list(folder.glob("*.safetensors"))
    return WrittenModel(
        method=f"in memory: {reason}",
        eos_token_ids=eos_token_ids,
        parameters=parameters,
        vocab_size=merged.config.get_text_config().vocab_size,
        resized_vocab_size=vocab_size,
        adapter_bytes=_adapter_bytes(target),
        tensors={"written": sum(len(SafetensorsFile(each).specs) for each in files)},
    )


def _check_tied_layers(model: PeftModel) -> None:
    """Raise UsageError if PEFT would merge without an error into a model with other outputs.

    A tied model has one matrix for embedding and head. An adapter on one of them changes only that use, which one matrix
    cannot represent: merged logits are off (0.22 on a tiny Llama), also with ``ensure_weight_tying``.
    """
    from peft.tuners.trainable_tokens import TrainableTokensLayer
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    base = model.get_base_model()
    if not getattr(base.config.get_text_config(), "tie_word_embeddings", False):
        return
    saved_for_both = getattr(model.active_peft_config, "ensure_weight_tying", False)
    for name, module in (("embed_tokens", base.get_input_embeddings()), ("lm_head", base.get_output_embeddings())):
        adapted = isinstance(module, BaseTunerLayer) and not isinstance(module, TrainableTokensLayer)
        if adapted or (isinstance(module, ModulesToSaveWrapper) and not saved_for_both):
            raise UsageError(
                f"the adapter changes {name}, which this model ties to another weight, and the base can only be merged in "
                "memory, where both remain one matrix.",
                remedy=f"Train without {name}, or use the adapter unmerged.",
            )


def _adapter_bytes(target: MergeTarget) -> int:
    """Memory of the adapters of ``target``: PEFT loads them in float32."""
    return sum(
        4 * math.prod(spec.shape) for each in target.adapters for spec in open_weights(each.peft_folder).specs.values()
    )
