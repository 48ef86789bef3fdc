"""Meta model: the base without its weights. Each parameter has its shape, and one zero as the value of all its elements.

These placeholders are on the CPU, where PEFT needs them to load an adapter, and take no memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orpo_cli.model.base_model import bitsandbytes_config
from orpo_cli.model.load_errors import explain_load_errors
from orpo_cli.model.model_source import ModelSource
from orpo_cli.recipe.schema import ModelSection, QuantizationSection

if TYPE_CHECKING:
    from torch.nn import Parameter
    from transformers import PreTrainedModel


def build_meta_model(source: ModelSource[ModelSection], vocab_size: int | None = None) -> PreTrainedModel:
    """The model of ``source``, with ``vocab_size`` tokens if training changed the size of the vocabulary."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    section, config = source.section, source.config()
    if vocab_size is not None:
        text_config = config.get_text_config()
        text_config.vocab_size = vocab_size
        if isinstance(text_config.pad_token_id, int) and text_config.pad_token_id >= vocab_size:
            text_config.pad_token_id = None  # its row was removed
    with explain_load_errors(section.model_name_or_path), init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, trust_remote_code=section.trust_remote_code, attn_implementation="eager"
        )
    placeholders: dict[int, Parameter] = {}  # tied parameters share one
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                placeholders.setdefault(id(parameter), placeholder(tuple(parameter.shape)))
                module._parameters[name] = placeholders[id(parameter)]
    return model.eval()


def placeholder(shape: tuple[int, ...]) -> Parameter:
    """A parameter of ``shape`` that takes no memory."""
    import torch

    return torch.nn.Parameter(torch.zeros(()).expand(shape), requires_grad=False)


def is_placeholder(parameter: Any) -> bool:
    """Whether a parameter is a placeholder without values."""
    return not any(parameter.stride()) and not bool(parameter.flatten()[:1].any())


def quantized_parameters(source: ModelSource[ModelSection], quantization: QuantizationSection) -> set[str]:
    """The names of the parameters that bitsandbytes quantizes when transformers loads the base."""
    import bitsandbytes as bnb
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.quantizers import AutoHfQuantizer

    section = source.section
    with explain_load_errors(section.model_name_or_path), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(source.config(), trust_remote_code=section.trust_remote_code)
        quantizer = AutoHfQuantizer.from_config(bitsandbytes_config(quantization), pre_quantized=False)
        quantizer.preprocess_model(model=model, device_map={"": "cpu"})
    kinds = (bnb.nn.Linear4bit, bnb.nn.Linear8bitLt)
    return {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, kinds)}
