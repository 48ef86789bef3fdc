"""An adapter on its base, with the checks that PEFT leaves to its users."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.errors import MachineError, UsageError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def attach(base: PreTrainedModel, adapter: Path) -> PeftModel:
    """The adapter on ``base``, in eval mode. Raises UsageError where not every weight of it finds its place.

    PEFT loads an adapter that was made for another model with a warning at most, and what found no place does nothing.
    """
    from peft import PeftConfig, PeftModel
    from safetensors import SafetensorError

    try:
        config = PeftConfig.from_pretrained(adapter)
        if config.is_prompt_learning:
            raise UsageError(
                f"{adapter} is a {config.peft_type} adapter: it adds to the input and has no weights to merge.",
                remedy="Use it through peft.",
            )
        model = PeftModel.from_pretrained(base, adapter, config=config)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        first = str(error).strip().splitlines()
        raise UsageError(
            f"{adapter} does not fit {base.config.name_or_path}: {' '.join(line.strip() for line in first[:2])}",
            remedy="Give the base that the adapter was trained on with --base.",
        ) from error
    except SafetensorError as error:
        raise MachineError(f"{adapter} cannot be read: {error}", remedy="Download or save it again.") from error
    _check_places(model, adapter, base)
    model.eval()
    return model


def _check_places(model: PeftModel, adapter: Path, base: PreTrainedModel) -> None:
    from peft import get_peft_model_state_dict, load_peft_weights

    stored = set(load_peft_weights(str(adapter), device="cpu"))
    wanted = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    missing, without_place = sorted(wanted - stored), sorted(stored - wanted - set(model.state_dict()))
    if missing or without_place:
        example = (missing or without_place)[0]
        raise UsageError(
            f"{adapter} does not fit {base.config.name_or_path}: {len(without_place)} of its weights have no place "
            f"there, {len(missing)} are missing (such as {example}).",
            remedy="Give the base that the adapter was trained on with --base.",
        )


def refuse_what_merges_wrong(model: PeftModel) -> None:
    """Raise UsageError where PEFT would merge without an error into a model that says something else.

    A tied model has one matrix for embedding and head. An adapter on either changes only its own use of it, which one
    matrix cannot hold: merged logits are off (0.22 on a tiny Llama), also with ``ensure_weight_tying``.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    base = model.get_base_model()
    if not getattr(base.config.get_text_config(), "tie_word_embeddings", False):
        return
    config = model.active_peft_config
    for name, module in (("embed_tokens", base.get_input_embeddings()), ("lm_head", base.get_output_embeddings())):
        if isinstance(module, BaseTunerLayer) and not _is_trainable_tokens(module):
            raise UsageError(
                f"the adapter changes {name}, which this model ties to its other end: no one matrix can hold both.",
                remedy=f"Train without {name} in lora.target_modules, or use the adapter unmerged.",
            )
        if isinstance(module, ModulesToSaveWrapper) and not getattr(config, "ensure_weight_tying", False):
            raise UsageError(
                f"the adapter holds a {name} of its own (modules_to_save), which this model ties to its other end.",
                remedy=f"Train without {name} in lora.modules_to_save, or use the adapter unmerged.",
            )


def _is_trainable_tokens(module: object) -> bool:
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    return isinstance(module, TrainableTokensLayer)


def widen(model: PeftModel, dtype: str) -> None:
    """Make a quantized model compute in ``dtype`` with the weights that it has, so that it can be compared closely.

    As it is, it computes in bfloat16 (off by 0.09 of the logits' spread on SmolLM2-135M), and in 8 bits it quantizes the
    activations too (0.24); in training on a CPU, bitsandbytes does not.
    """
    import bitsandbytes as bnb
    import torch

    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.compute_dtype = getattr(torch, dtype)
            module.compute_type_is_set = True
            # what it is dequantized to: rounded to bfloat16 before the merge, updates smaller than a rounding step are lost
            module.weight.quant_state.dtype = getattr(torch, dtype)
        elif isinstance(module, bnb.nn.Linear8bitLt):
            module.train()
    for parameter in model.parameters():
        if parameter.is_floating_point() and not isinstance(parameter, bnb.nn.Params4bit | bnb.nn.Int8Params):
            parameter.data = parameter.data.to(getattr(torch, dtype))


def is_exact(model: PreTrainedModel) -> bool:
    """Whether ``widen`` could make the model compute with its weights alone: in 8 bits on a GPU it cannot."""
    import bitsandbytes as bnb

    return model.device.type == "cpu" or not any(isinstance(each, bnb.nn.Linear8bitLt) for each in model.modules())


def dequantized(model: PreTrainedModel, name: str, dtype: str) -> PreTrainedModel:
    """``model`` with ordinary linear layers in ``dtype`` that hold what its quantized ones stood for."""
    import torch

    try:
        return model.dequantize(dtype=getattr(torch, dtype))
    except NotImplementedError as error:
        raise UsageError(
            f"{name} is quantized in a way that transformers cannot undo: {error}",
            remedy="Give the unquantized model with --base.",
        ) from error
