"""Several processes of a trainer: replicas, FSDP2 and ZeRO.

The model is not wrapped: FSDP2 shards it in place, and replicas need nothing, because ``average_gradients`` replaces torch's
DistributedDataParallel.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.fsdp import FSDPModule
from transformers import Trainer

from orpo_cli.training.gradient_sum import average_gradients, broadcast_weights
from orpo_cli.training.random_state import seed_process
from orpo_cli.training.setting_errors import explain_setting_errors
from orpo_cli.training.sharding import deferred_reduction, make_mesh, shard_model
from orpo_cli.training.zero import Zero
from orpo_cli.training.zero_config import ZeroSettings

if TYPE_CHECKING:
    from orpo_cli.recipe.schema import FsdpConfig


class ParallelTrainer(Trainer):
    """What ``PairTrainer``, which has the other attributes, does with several processes."""

    fsdp: FsdpConfig | None
    zero: Zero | None  # from ``train`` on
    optimizer: Any

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        """The Trainer's preparation. The model is not wrapped: FSDP2 shards it in place, and replicas need nothing."""
        if self.agreement.num_processes > 1:  # dropout masks differ between processes
            seed_process(self.args.seed, 0, self.accelerator.process_index)
        if self.fsdp is not None:
            self._shard_model(self.fsdp)
        owned = self.replicated or self.fsdp is not None or self.deepspeed_config is not None
        self.is_distributed_loading_by_transformers = owned
        self._resumes = resume_from_checkpoint is not None
        try:
            model, dataloader = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        finally:
            self.is_distributed_loading_by_transformers = False
        if self.zero is not None:
            model = self.model_wrapped = self.zero.model
        return model, dataloader

    def _sync_replicated_trainable_parameters(self, model: Any) -> None:
        """Called when model and optimizer are ready for the ranks."""
        if self.replicated:
            broadcast_weights(model.parameters())
        if self.deepspeed_config is not None:
            self._start_zero(self.deepspeed_config)

    def _start_zero(self, config: dict[str, Any]) -> None:
        settings = ZeroSettings(
            config=config,
            batch_size=self.args.train_batch_size,
            max_grad_norm=self.args.max_grad_norm,
            bf16=self.args.bf16,
            fp16=self.args.fp16,
            device=self.args.device,
            resumed=self._resumes,
        )
        accelerated: Any = self.optimizer
        with explain_setting_errors("launch.deepspeed_config"):
            zero = self.zero = Zero(self.model, accelerated.optimizer, settings)
        self.optimizer = zero
        self.accelerator.backward = lambda loss, **_: zero.backward(loss)
        self.accelerator.no_sync = lambda model: nullcontext()

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        """Nothing with sharded weights: a layer is moved when it is sharded, since the device may not have memory for all."""
        if not self.shards_weights:
            super()._move_model_to_device(model, device)

    def _shard_model(self, config: FsdpConfig) -> None:
        if isinstance(self.model, FSDPModule):
            return
        if _has_adapter(self.model) and self.agreement.num_processes > 1:
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.to(self.args.device)
            broadcast_weights(self.model.parameters())  # a random adapter may differ
        dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else None
        shard_model(self.model, make_mesh(self.args.device), config, dtype)

    def _sync_gradients(self, model: Any, *, last: bool) -> AbstractContextManager[Any]:
        """Context of a backward pass; ``last`` of a step. FSDP2 averages the gradients of an adapter once a step.

        With full weights it does so after every pass, because gradients that are not sharded need the memory of all weights.
        """
        if self.zero is not None:
            return self.zero.pass_of_step(last=last)
        if last or not self.sharded:
            return nullcontext()
        if self.fsdp is None:
            context: AbstractContextManager[Any] = self.accelerator.no_sync(model=model)
            return context
        return deferred_reduction(model) if _has_adapter(self.model) else nullcontext()

    def _finish_gradients(self) -> None:
        """After the last batch of a step: the mean over ranks, since each rank's loss is times their number."""
        if self.replicated and self.accelerator.sync_gradients:
            average_gradients(self.model.parameters(), self.agreement)


def _has_adapter(model: Any) -> bool:
    return hasattr(model, "peft_config")
