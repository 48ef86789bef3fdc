"""Lower decoder layers that base and tuned model share: computed once for both, micro-batch by micro-batch.

An adapter that leaves the first layers out (``lora.layers_to_transform``) does not change what they compute.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch


class SharedLowerLayers:
    """``layers``: the decoder layers below the first adapted one. One forward pass records their output, the next ones reuse it."""

    def __init__(self, layers: Sequence[torch.nn.Module]) -> None:
        self.layers = layers
        self._output: Any = None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Context of a forward pass whose output of the last of these layers is kept, until ``reusing`` ends."""

        def record(_layer: torch.nn.Module, _inputs: Any, output: Any) -> None:
            self._output = output

        hook = self.layers[-1].register_forward_hook(record)
        try:
            yield
        finally:
            hook.remove()

    @contextmanager
    def reusing(self) -> Iterator[None]:
        """Context of a forward pass of the same tokens, in which these layers return what was kept and compute nothing."""
        output, self._output = self._output, None
        with ExitStack() as restore:
            for layer in self.layers:
                layer.__dict__["forward"] = lambda *_, **__: output
                restore.callback(layer.__dict__.pop, "forward")
            yield


def shared_lower_layers(model: Any) -> SharedLowerLayers | None:
    """The layers of ``model`` (a PeftModel) that no adapter reaches; None where the first one is adapted, or that is not sure."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    base = model.get_base_model()
    config = base.config.get_text_config()
    lists = [each for each in base.modules() if isinstance(each, torch.nn.ModuleList)]
    layers = next((list(each) for each in lists if len(each) == config.num_hidden_layers), [])
    places = {module: place for place, layer in enumerate(layers) for module in layer.modules()}
    after = set(base.get_output_embeddings().modules())
    adapted = {module for module in base.modules() if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)}
    first = min((places.get(module, 0) for module in adapted - after), default=len(layers))
    lower = layers[:first]
    shares_keys = bool(getattr(config, "num_kv_shared_layers", 0))  # upper layers read keys and values of lower ones
    if not lower or shares_keys or any("forward" in layer.__dict__ for layer in lower):
        return None
    return SharedLowerLayers(lower)
