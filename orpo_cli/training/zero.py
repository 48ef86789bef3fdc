"""DeepSpeed's ZeRO: optimizer states (stage 1), gradients (2) and weights (3) that are divided among all ranks.

deepspeed is called directly, not by accelerate's plugin: that one takes an optimizer step in every backward pass, and does
nothing on CPUs, where tests run the code that GPUs run.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import patch_environment

from orpo_cli.training.agreement import Agreement
from orpo_cli.training.sharding import decoder_layers, start_process_group

Parameter = torch.nn.Parameter


@dataclass(frozen=True)
class ZeroSettings:
    """Settings of a training with ZeRO: DeepSpeed's configuration of the plan, and what the training arguments say."""

    config: Mapping[str, Any]
    batch_size: int
    max_grad_norm: float
    bf16: bool
    fp16: bool
    device: torch.device
    resumed: bool


def zero_stage(config: Mapping[str, Any] | None) -> int:
    """The stage of ZeRO in DeepSpeed's configuration; 0 without one."""
    return 0 if config is None else int(config["zero_optimization"]["stage"])


class Zero:
    """Model and optimizer in DeepSpeed's engine. It takes the place of the optimizer in the Trainer.

    DeepSpeed averages the gradients over the ranks, clips them, and computes in ``float32`` what it stores in less.
    ``model`` is called instead of the model itself.
    """

    def __init__(self, model: Any, optimizer: torch.optim.Optimizer, settings: ZeroSettings) -> None:
        start_process_group(settings.device)
        trained = [each for each in model.parameters() if each.requires_grad]
        self.partitioned = zero_stage(settings.config) == 3
        self.optimizer = optimizer
        self._loaded_dtypes = {id(each): each.dtype for each in trained}
        self._original_groups = [{**group, "params": list(group["params"])} for group in optimizer.param_groups]
        config = _complete_config(settings, model)
        exact = []
        if settings.resumed and config["bf16"]["enabled"]:
            exact = [(each, each.detach().to("cpu", copy=True)) for each in trained if each.dtype == torch.float32]
        with _quiet(settings.device):
            import deepspeed
            from deepspeed.utils import set_z3_leaf_modules

            if self.partitioned:  # the packed step reads weights of modules that it does not call
                base = model.get_base_model() if hasattr(model, "peft_config") else model
                set_z3_leaf_modules(model, list({type(each) for each in decoder_layers(base)}))
                base.enable_input_require_grads()  # or the gradients of the first layer would be taken before they exist
            self.model, self._zero_optimizer, _, _ = deepspeed.initialize(
                model=model, optimizer=optimizer, config=config, dist_init_required=False
            )
        for parameter, value in exact:
            self._set_part(parameter, value, None)

    # As an optimizer

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of the optimizer, which have the parts of this rank."""
        return self.optimizer.param_groups

    @property
    def state(self) -> Mapping[Any, Any]:
        """The states of the optimizer on this rank."""
        return self.optimizer.state

    def step(self) -> None:
        """Clip the gradients, update the weights, and gather them on all ranks."""
        self.model.step()

    # Steps

    def backward(self, loss: torch.Tensor) -> None:
        """Backward pass of a micro-batch; all ranks take part."""
        self.model.backward(loss, scale_wrt_gas=False)

    @contextmanager
    def pass_of_step(self, *, last: bool) -> Iterator[None]:
        """Context of the forward and backward pass of a micro-batch; after the ``last`` one gradients are complete."""
        self.model.set_gradient_accumulation_boundary(last)
        yield

    def gradient_norm(self) -> float:
        """The norm of the averaged gradients before they are clipped; nan if one of them is not finite."""
        from deepspeed.runtime.utils import combine_grad_norm_groups

        if self.partitioned:
            norm = combine_grad_norm_groups(self._zero_optimizer._get_norm_groups())
        else:
            norm = self._zero_optimizer.scaled_global_norm()
        value = float(norm) / float(self._zero_optimizer.loss_scale)
        return value if value >= 0 and math.isfinite(value) else math.nan  # DeepSpeed's -1 is such a norm

    # Whole state

    def whole_weight(self, tensor: torch.Tensor) -> torch.Tensor:
        """A weight as one process has it: gathered, and a trained one with the precision that it was loaded with."""
        loaded = self._loaded_dtypes.get(id(tensor), tensor.dtype)
        if loaded != tensor.dtype:
            from deepspeed.utils import safe_get_full_fp32_param

            master: torch.Tensor = safe_get_full_fp32_param(tensor)
            return master.to(loaded)
        if not hasattr(tensor, "ds_id"):
            return tensor.detach()
        with self._gathered([tensor]):
            return tensor.detach().clone()

    @contextmanager
    def loading_whole_weights(self) -> Iterator[None]:
        """Context in which whole tensors can be copied into the trained weights."""
        trained = [each for each in self.model.module.parameters() if each.requires_grad] if self.partitioned else []
        with self._gathered(trained, modifier_rank=0) if trained else contextlib.nullcontext():
            yield
        self._zero_optimizer.refresh_fp32_params()

    def gather_optimizer(self, agreement: Agreement) -> dict[str, Any] | None:
        """The state of the optimizer as one process has it, on rank 0; None on other ranks."""
        example: dict[str, Any] = next((each for each in self.optimizer.state.values() if each), {})
        parts = [name for name, value in example.items() if torch.is_tensor(value) and value.dim() > 0]
        scalars = {name: value for name, value in example.items() if name not in parts}
        state: dict[int, dict[str, Any]] = {}
        for index, parameter in enumerate(self._parameters()):
            gathered = {name: self._whole_state(parameter, name) for name in parts}
            if agreement.rank == 0 and example:
                # Own scalars for each: torch.save keeps what is shared, and AdamW would count the steps of all parameters.
                state[index] = {name: each.cpu() for name, each in gathered.items()} | copy.deepcopy(scalars)
        return {"state": state, "param_groups": self._indexed_groups()} if agreement.rank == 0 else None

    def load_optimizer(self, state: Mapping[str, Any]) -> None:
        """Load the state of an optimizer of one process, of which this rank takes its part."""
        by_index = dict(zip(_indices(state["param_groups"]), self._parameters(), strict=True))
        if not state["state"]:
            return
        example = next(iter(state["state"].values()))
        parts = [name for name, value in example.items() if torch.is_tensor(value) and value.dim() > 0]
        for flat in self._flat_parameters():
            scalars = {name: copy.deepcopy(value) for name, value in example.items() if name not in parts}
            self.optimizer.state[flat] = {name: torch.zeros_like(flat) for name in parts} | scalars
        for index, values in state["state"].items():
            for name in parts:
                self._set_part(by_index[index], values[name], name)
        saved = [group for group in state["param_groups"] if group["params"]]
        for group, loaded in zip(self.optimizer.param_groups, saved, strict=True):
            group.update({name: value for name, value in loaded.items() if name != "params"})

    def scheduler_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state of a schedule with values for all groups; DeepSpeed removes groups without parameters."""
        count, values = len(self.optimizer.param_groups), self._original_groups

        def expanded(each: list[Any]) -> list[Any]:
            present = iter(each)
            return [next(present) if group["params"] else each[0] for group in values]

        return {name: expanded(each) if _is_per_group(each, count) else each for name, each in state.items()}

    def load_scheduler(self, scheduler: Any, state: dict[str, Any]) -> None:
        """Load the state of a schedule of one process."""
        present = [bool(group["params"]) for group in self._original_groups]
        count = len(present)
        scheduler.load_state_dict(
            {
                name: list(itertools.compress(each, present)) if _is_per_group(each, count) else each
                for name, each in state.items()
            }
        )

    def _parameters(self) -> list[Parameter]:
        return [each for group in self._original_groups for each in group["params"]]

    def _indexed_groups(self) -> list[dict[str, Any]]:
        """The groups of the optimizer of one process, with the present values of the settings."""
        current = iter(self.optimizer.param_groups)
        first, indices, groups = self.optimizer.param_groups[0], itertools.count(), []
        for original in self._original_groups:
            # A group without parameters, which DeepSpeed removes, has the learning rates of the schedule, too.
            values = next(current) if original["params"] else {**first, **original, "lr": first["lr"]}
            groups.append({**values, "params": [next(indices) for _ in original["params"]]})
        return groups

    def _flat_parameters(self) -> list[torch.Tensor]:
        if self.partitioned:
            flat: list[torch.Tensor] = self._zero_optimizer.fp32_partitioned_groups_flat
            return flat
        return [each for group in self.optimizer.param_groups for each in group["params"]]

    def _whole_state(self, parameter: Any, name: str) -> torch.Tensor:
        """A state of a parameter, gathered from all ranks."""
        if self.partitioned:
            from deepspeed.utils import safe_get_full_optimizer_state

            state: torch.Tensor = safe_get_full_optimizer_state(parameter, name)
            return state
        whole = torch.zeros(parameter.numel(), device=parameter.device)
        if (mapping := parameter._hp_mapping) is not None:
            source, target = mapping.hp_fragment_address, mapping.lp_fragment_address
            part = self._flat_state(mapping, name).narrow(0, source.start, source.numel)
            whole.narrow(0, target.start, target.numel).copy_(part)
        dist.all_reduce(whole)
        return whole.view_as(parameter)

    def _flat_state(self, mapping: Any, name: str) -> torch.Tensor:
        flat = self.optimizer.param_groups[mapping.param_group_index]["params"][0]
        state: torch.Tensor = self.optimizer.state[flat][name]
        return state

    def _set_part(self, parameter: Any, value: torch.Tensor, name: str | None) -> None:
        """Set the part of this rank of a state, or (name None) of the weights in float32, to that of the whole ``value``."""
        flat = value.flatten()
        if self.partitioned:
            from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

            size = parameter.ds_tensor.numel()
            start = size * dist.get_rank()
            part = torch.zeros(size, dtype=flat.dtype)
            part[: max(0, min(size, len(flat) - start))] = flat[start : start + size]
            part = part.to(parameter.ds_tensor.device)
            if name is None:
                safe_set_local_fp32_param(parameter, part)
            else:
                safe_set_local_optimizer_state(parameter, part, name)
        elif (mapping := parameter._hp_mapping) is not None:
            source, target = mapping.lp_fragment_address, mapping.hp_fragment_address
            part = flat.narrow(0, source.start, source.numel)
            if name is None:
                mapping.hp_fragment.data.copy_(part)
            else:
                self._flat_state(mapping, name).narrow(0, target.start, target.numel).copy_(part)

    @staticmethod
    def _gathered(parameters: list[Any], modifier_rank: int | None = None) -> Any:
        import deepspeed

        return deepspeed.zero.GatheredParameters(parameters, modifier_rank=modifier_rank)


def _complete_config(settings: ZeroSettings, model: Any) -> dict[str, Any]:
    """The configuration of the plan with the training arguments in it. Other values `auto` are DeepSpeed's defaults."""
    trained = [each for each in model.parameters() if each.requires_grad]
    bf16 = not settings.fp16 and (settings.bf16 or any(each.dtype == torch.bfloat16 for each in trained))
    hidden_size = model.config.get_text_config().hidden_size
    config = _without_auto(settings.config)
    zero = {**_automatic_sizes(settings.config["zero_optimization"], hidden_size), **config["zero_optimization"]}
    for name in ("train_batch_size", "optimizer", "scheduler", "activation_checkpointing"):
        config.pop(name, None)
    return {
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # it compiles its own
        **config,
        "zero_optimization": zero,
        "train_micro_batch_size_per_gpu": settings.batch_size,
        "gradient_accumulation_steps": 1,  # the trainer says which pass is the last one
        "gradient_clipping": settings.max_grad_norm,
        "bf16": {**config.get("bf16", {}), "enabled": bf16},
        "fp16": {**config.get("fp16", {}), "enabled": settings.fp16},
    }


def _automatic_sizes(zero: Mapping[str, Any], hidden_size: int) -> dict[str, int]:
    """The sizes that transformers gives to values `auto`."""
    sizes = {
        "reduce_bucket_size": hidden_size**2,
        "stage3_prefetch_bucket_size": int(0.9 * hidden_size**2),
        "stage3_param_persistence_threshold": 10 * hidden_size,
    }
    return {name: size for name, size in sizes.items() if zero.get(name) == "auto"}


def _without_auto(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_auto(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
        if value != "auto"
    }


def _is_per_group(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count


def _indices(groups: Iterable[Mapping[str, Any]]) -> Iterator[int]:
    return (index for group in groups for index in group["params"])


@contextmanager
def _quiet(device: torch.device) -> Iterator[None]:
    """Context of a start of DeepSpeed, which prints to standard output and reads its device from the environment."""
    variables = {"DS_ACCELERATOR": device.type, "LOCAL_RANK": os.environ.get("LOCAL_RANK", str(device.index or 0))}
    with patch_environment(**variables), contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import deepspeed

        for handler in logging.getLogger("DeepSpeed").handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setStream(sys.stderr)
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        # On CPUs: it would be compiled at the first start.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        yield
