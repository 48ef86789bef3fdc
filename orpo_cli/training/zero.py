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
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import patch_environment

from orpo_cli.model.base_model import base_of
from orpo_cli.training.agreement import Agreement
from orpo_cli.training.sharding import decoder_layers, start_process_group
from orpo_cli.training.zero_config import ZeroSettings, complete_config, zero_stage

Parameter = torch.nn.Parameter


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
        config = complete_config(settings, model)
        exact = []
        if settings.resumed and config["bf16"]["enabled"]:
            exact = [(each, each.detach().to("cpu", copy=True)) for each in trained if each.dtype == torch.float32]
        with _quiet(settings.device):
            import deepspeed
            from deepspeed.utils import set_z3_leaf_modules

            if self.partitioned:  # the packed step reads weights of modules that it does not call
                base = base_of(model)
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

    # Full state

    def full_weight(self, tensor: torch.Tensor) -> torch.Tensor:
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
    def loading_full_weights(self) -> Iterator[None]:
        """Context in which full tensors can be copied into the trained weights."""
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
            gathered = {name: self._full_state(parameter, name) for name in parts}
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

    def _full_state(self, parameter: Any, name: str) -> torch.Tensor:
        """A state of a parameter, gathered from all ranks."""
        if self.partitioned:
            from deepspeed.utils import safe_get_full_optimizer_state

            state: torch.Tensor = safe_get_full_optimizer_state(parameter, name)
            return state
        full = torch.zeros(parameter.numel(), device=parameter.device)
        if (mapping := parameter._hp_mapping) is not None:
            source, target = mapping.hp_fragment_address, mapping.lp_fragment_address
            part = self._flat_state(mapping, name).narrow(0, source.start, source.numel)
            full.narrow(0, target.start, target.numel).copy_(part)
        dist.all_reduce(full)
        return full.view_as(parameter)

    def _flat_state(self, mapping: Any, name: str) -> torch.Tensor:
        flat = self.optimizer.param_groups[mapping.param_group_index]["params"][0]
        state: torch.Tensor = self.optimizer.state[flat][name]
        return state

    def _set_part(self, parameter: Any, value: torch.Tensor, name: str | None) -> None:
        """Set the part of this rank of a state, or (name None) of the weights in float32, to that of the full ``value``."""
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
