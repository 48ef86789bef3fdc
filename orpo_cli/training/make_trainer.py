"""The trainer of a plan: TRL's, with the packed step where plan and model allow it, and an adapter where the plan has one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.errors import UsageError
from orpo_cli.model.added_tokens import trainable_token_indices
from orpo_cli.model.packing_support import packing_obstacle
from orpo_cli.plan.plan import Plan
from orpo_cli.training.packed_trainer import PackedTrainer
from orpo_cli.training.trl_trainer import PairTrainer, TokenizedDataset, explain_setting_errors, orpo_config

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

# Another part of orpo does what these say: a hub that fails would end a run of trl's.
HANDLED_BY_ORPO = ("logging_dir", "push_to_hub", "hub_strategy", "hub_always_push", "hub_revision")
LORA_PLUS = ("loraplus_lr_ratio", "loraplus_lr_embedding")  # what `lora` says of the optimizer
TENSORBOARD = "TENSORBOARD_LOGGING_DIR"  # the variable that TensorBoard's callback reads


def make_trainer(
    plan: Plan,
    checkpoints: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset,
    evaluation: Dataset | None,
    callbacks: list[TrainerCallback],
    note: Callable[[str], None] = warnings.warn,
) -> PairTrainer:
    """TRL's trainer for ``plan``, with an adapter where the plan has one. ``train`` and ``evaluation`` are tokenized.

    ``note`` is told where the fast path is left. Raises UsageError for arguments that do not go together or where a required
    fast path is not possible, MachineError where a package or device is missing.
    """
    from peft import LoraConfig
    from transformers import PrinterCallback, ProgressCallback

    lora, plus = None, {}
    if plan.lora is not None:
        values = {name: value for name, value in plan.lora.model_dump().items() if value is not None}
        plus = {name: values.pop(name) for name in LORA_PLUS if name in values}
        if added := plan.model.add_special_tokens:
            asked = values.get("trainable_token_indices")
            values["trainable_token_indices"] = trainable_token_indices(model, tokenizer, added, asked)
        with explain_setting_errors("lora"):
            lora = LoraConfig(task_type="CAUSAL_LM", **values)
    own = {"loss_on_prompt": plan.training.get("loss_on_prompt", True), "lora_plus": plus}
    values = {name: value for name, value in plan.training.items() if name not in (*own, *HANDLED_BY_ORPO)}
    packed = plan.engine.fast_path != "off" and _verify_packing(plan, model, note)
    kind: Callable[..., PairTrainer] = partial(PackedTrainer, engine=plan.engine, note=note) if packed else PairTrainer
    with explain_setting_errors("model, lora or training settings"), _tensorboard_in(plan.training.get("logging_dir")):
        trainer = kind(
            **own,
            save_training_args=not plan.secrets,
            model=model,
            args=orpo_config(checkpoints, values),
            train_dataset=TokenizedDataset(train),
            eval_dataset=None if evaluation is None else TokenizedDataset(evaluation),
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=callbacks,
        )
    trainer.remove_callback(PrinterCallback)  # they print to standard output; orpo has its own display
    trainer.remove_callback(ProgressCallback)
    if lora is not None:
        trainer.model.get_base_model().config.use_cache = False
    return trainer


def _verify_packing(plan: Plan, model: PreTrainedModel, note: Callable[[str], None]) -> bool:
    """Whether the loaded model supports the packed steps that the plan decided from the model's configuration.

    It differs only where the plan did not know the configuration. Raises UsageError if the plan requires packed steps.
    """
    training = plan.training
    dropout_disabled = training.get("disable_dropout", True)
    obstacle = packing_obstacle(model, training.get("max_length"), dropout_disabled=dropout_disabled)
    if obstacle is not None and plan.engine.fast_path == "required":
        raise UsageError(
            f"engine.fast_path is required, but {obstacle}.", remedy="Use auto, which takes trl's own path."
        )
    if obstacle is not None:
        note(f"trl's own path computes the steps: {obstacle}")
    return obstacle is None


@contextmanager
def _tensorboard_in(folder: str | None) -> Iterator[None]:
    """Let TensorBoard's callback, which reads the environment when it is made, write to ``folder``."""
    before = os.environ.get(TENSORBOARD)
    if folder is not None:
        os.environ[TENSORBOARD] = folder
    try:
        yield
    finally:
        os.environ.pop(TENSORBOARD, None)
        if before is not None:
            os.environ[TENSORBOARD] = before
