"""The one door to TRL. Everything that uses `trl.experimental.orpo` or its internals stands in this module.

TRL 1.16 is pinned, because the experimental modules may change in any release; tests/parity says when they moved.
What is changed here, and why:

* The data comes tokenized by ``orpo_cli.data``: TRL maps row by row, never truncates prompts, and doubles end tokens.
* A loss or gradient that is not finite stops the run and names the pairs, where TRL goes on and logs 0.0.
* No model card is written into checkpoints and no telemetry is sent; the card is ``orpo_cli.card.model_card``.

* The step is computed by ``orpo_cli.training.engine`` where the plan says so and the model allows it: the same loss and
  gradients, from packed pairs. On the first pairs both paths are computed and compared; where they differ, TRL's is taken.
* ``lora.loraplus_lr_ratio`` makes the optimizer peft's LoRA+ one.
* ``loss_on_prompt: false`` leaves the prompt out of the NLL.

Everything else of the loss is TRL's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy
from transformers.trainer import TRAINING_ARGS_NAME

from orpo_cli.data.table import expand_pair
from orpo_cli.errors import MachineError, RunError, UsageError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # "experimental": the pin answers it
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer
    from trl.experimental.utils import pad_to_length

if TYPE_CHECKING:
    from datasets import Dataset

# Texts are left out: reading them from the table takes longer than reading the ids.
TRAINING_COLUMNS = ("row", "prompt_input_ids", "chosen_answer_ids", "rejected_answer_ids", "length")


class PairTrainer(ORPOTrainer):
    """ORPOTrainer on tokenized pairs. Counts tokens and keeps the names of the rows of the current step.

    ``tokens_seen`` counts the tokens of chosen and rejected sequences, padding left out. ``loss_on_prompt`` says whether the
    NLL counts prompt and chosen answer, as trl's does, or the answer alone. ``save_training_args`` says whether a checkpoint
    has the pickle of the arguments, which holds what a recipe took from the environment. ``lora_plus`` are the keywords of
    peft's LoRA+ optimizer, where the adapter's two matrices learn at different rates.
    """

    def __init__(
        self,
        *,
        loss_on_prompt: bool = True,
        save_training_args: bool = True,
        lora_plus: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self.loss_on_prompt = loss_on_prompt
        self.save_training_args = save_training_args
        self.lora_plus = lora_plus or {}
        self.tokens_seen = 0
        self.step_rows: list[str] = []
        super().__init__(**kwargs)
        self.data_collator: Any = PairCollator(self.data_collator)

    def create_optimizer(self, model: Any = None) -> Any:
        """The optimizer that the plan names. Raises UsageError or MachineError where the library refuses it."""
        with explain_setting_errors("training.optim", "training.optim_args"):
            if self.lora_plus and getattr(self, "optimizer", None) is None:
                self.optimizer: torch.optim.Optimizer = self._lora_plus_optimizer()
            return super().create_optimizer(model)

    def _lora_plus_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer that the plan names, on groups of parameters with learning rates of their own."""
        from peft.optimizers import create_loraplus_optimizer

        kind, keywords = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        plus = {"loraplus_weight_decay": self.args.weight_decay, **self.lora_plus}
        optimizer: torch.optim.Optimizer = create_loraplus_optimizer(self.model, kind, **keywords, **plus)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule that the plan names. Raises UsageError where the library refuses it."""
        with explain_setting_errors("training.lr_scheduler_type", "training.lr_scheduler_kwargs"):
            return super().create_scheduler(num_training_steps, optimizer)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """One micro-batch: forward and backward. Raises RunError where the loss is not finite."""
        self.step_rows.extend(inputs["row"])
        self.tokens_seen += int(inputs["chosen_attention_mask"].sum() + inputs["rejected_attention_mask"].sum())
        return self._finite(super().training_step(model, inputs, num_items_in_batch), inputs["row"])

    def concatenated_forward(self, model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        """trl's forward pass; the NLL without the prompt where the plan says so."""
        outputs: tuple[torch.Tensor, ...] = super().concatenated_forward(model, batch)
        if self.loss_on_prompt:
            return outputs
        logits = outputs[2]  # of chosen, (pairs, tokens - 1, words)
        labels = pad_to_length(batch["chosen_labels"], logits.shape[1] + 1, pad_value=-100)[:, 1:]
        nll = cross_entropy(logits.flatten(0, 1), labels.flatten().to(logits.device))
        return (*outputs[:4], nll, *outputs[5:])

    def _finite(self, loss: torch.Tensor, rows: list[str]) -> torch.Tensor:
        if not torch.isfinite(loss):
            raise self._not_finite("loss", loss.item(), rows)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        rows, self.step_rows = self.step_rows, []
        scaled = self.accelerator.scaler is not None  # float16: the scaler skips such steps and lowers its scale
        if norm is not None and not scaled and not torch.isfinite(torch.as_tensor(norm)):
            raise self._not_finite("gradient norm", float(norm), rows)
        return norm

    def _not_finite(self, what: str, value: float, rows: list[str]) -> RunError:
        shown = ", ".join(rows[:8]) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
        return RunError(
            f"step {self.state.global_step + 1}: the {what} is {value}; the weights of the step before are kept. Pairs: {shown}.",
            remedy="Look at these pairs, lower training.learning_rate, or train in bf16 or float32 instead of fp16.",
        )

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if not self.save_training_args:
            (Path(output_dir or self.args.output_dir) / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Leave the card to orpo_cli.card.model_card."""

    def _send_telemetry(self) -> None:
        """Send nothing."""


@contextmanager
def explain_setting_errors(*names: str) -> Iterator[None]:
    """Name the settings that a library's error is about."""
    try:
        yield
    except ImportError as error:
        raise MachineError(f"{names[0]}: {error}", remedy="Install it, or choose another.") from error
    except (TypeError, ValueError) as error:
        raise UsageError(f"{' and '.join(names)}: {error}", remedy="See the library's documentation.") from error


@dataclass
class PairCollator:
    """Data collator of trl's own path: expands pairs to sequences, masks and labels, which ``pad`` (trl's collator) pads."""

    pad: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Rows of the dataset → a batch of trl's ORPOTrainer."""
        return self.pad([expand_pair(row) for row in rows])


class TokenizedDataset:
    """A tokenized dataset for ORPOTrainer.__init__, whose three ``map`` calls would extract, template and tokenize it."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset.select_columns([name for name in TRAINING_COLUMNS if name in dataset.column_names])

    def map(self, function: Callable[..., Any], **_: Any) -> Any:
        """The dataset itself, once its last call asks for token ids."""
        return self.dataset if getattr(function, "__name__", "") == "tokenize_row" else self


def orpo_config(checkpoints: Path, arguments: dict[str, Any]) -> ORPOConfig:
    """TRL's arguments of a run that writes its checkpoints to ``checkpoints``."""
    return ORPOConfig(output_dir=str(checkpoints), **arguments)
