"""Evaluation of a trainer: what `orpo eval` computes, as means over all pairs, which the ranks share.

TRL gives means of the means of its batches.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from orpo_cli.evaluation.kept_scores import computes_as_base, keep_scores, scores_key
from orpo_cli.evaluation.metrics import accuracies_by_length, preference_metrics
from orpo_cli.evaluation.preference_scores import PairScores, PairScoring, mixed_precision
from orpo_cli.training.out_of_memory import is_out_of_memory
from orpo_cli.training.random_state import random_state_restorer
from orpo_cli.training.schedule_callback import evaluation_status
from orpo_cli.training.sharding import reshard


class EvaluatingTrainer(Trainer):
    """The evaluation of ``PairTrainer``, which has the other attributes."""

    eval_scores: PairScores | None  # of the last evaluation

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """An evaluation that leaves the random state: a resumed run may do it at another time."""
        restore_random_state = random_state_restorer(self.args.device)
        self.status(evaluation_status(self.state.global_step))
        try:
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
            return metrics
        finally:
            restore_random_state()

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluation of all pairs as `orpo eval` does it, with the same code and the same batches, which the ranks share."""
        self.model.eval()
        optimizer: Any = self.optimizer
        if callable(getattr(optimizer, "eval", None)):  # a schedule-free optimizer has other weights in training
            optimizer.eval()
        self.eval_scores = scores = self._score_pairs(dataloader.dataset)
        metrics = preference_metrics(scores, self.beta)
        metrics["loss"] = self.nll_weight * metrics["nll_loss"] - self.beta * metrics["log_odds_ratio"]
        metrics |= {"logits/chosen": scores.logits_chosen, "logits/rejected": scores.logits_rejected}
        metrics |= {"pairs": len(scores.chosen), **accuracies_by_length(scores)}
        if self.fsdp is not None:
            reshard(self.model)
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=named, num_samples=len(scores.chosen))

    def _score_pairs(self, dataset: Any) -> PairScores:
        """The scores of all pairs, of which each rank computes some batches."""
        rank, processes = self.accelerator.process_index, self.agreement.num_processes
        rows = [dataset[at] for at in range(len(dataset))]
        scoring = self._pair_scoring(rows)
        size = None if self.eval_batch_pairs is None else 2 * self.eval_batch_pairs
        batches = scoring.batches(self.model, self.args.device, size)
        status = evaluation_status(self.state.global_step)
        for start in range(0, len(batches), processes):
            self.status(status, f"batch {start // processes + 1} of {-(-len(batches) // processes)}")
            mine = batches[start + rank : start + rank + 1]
            if mine:
                self._score_batch(scoring, mine[0])
            elif self.sharded:  # every rank takes part in a forward pass
                self._score_batch(scoring, batches[-1], counted=False)
            self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        if processes > 1:
            shape = scoring.values.shape
            summed = self.agreement.sum(scoring.values.flatten().tolist())
            scoring.values = torch.tensor(summed, dtype=torch.float64).reshape(shape)
        scores = scoring.result()
        if self.state.global_step == 0 and processes == 1:
            self._keep_base_scores(rows, scores, {**scoring.settings(), "batch_size": size})
        return scores

    def _keep_base_scores(self, rows: list[dict[str, Any]], scores: PairScores, settings: dict[str, Any]) -> None:
        """Keep the scores before the first step, where they are those of the base: `orpo eval` uses them again."""
        if self.fsdp is not None or self.zero is not None or not computes_as_base(self.model):
            return
        with mixed_precision(self.args.device, bf16=self.args.bf16, fp16=self.args.fp16):
            key = scores_key(self.model, rows, settings)
        if key is not None:
            keep_scores(key, scores, f"orpo train, before the first step of {Path(self.args.output_dir).parent}")

    def _pair_scoring(self, rows: list[dict[str, Any]]) -> PairScoring:
        return PairScoring(rows, loss_on_prompt=self.loss_on_prompt)

    def _score_batch(self, scoring: PairScoring, batch: list[Any], *, counted: bool = True) -> None:
        """Compute a batch, or its halves where the memory is used up even after that of the failed try is freed."""
        parts, retried = [batch], False
        while parts:
            try:
                with mixed_precision(self.args.device, bf16=self.args.bf16, fp16=self.args.fp16):
                    scoring.score(self.model, parts[0], self.args.device, counted=counted)
            except (RuntimeError, MemoryError) as error:
                # With sharded weights other processes wait for every layer.
                if not is_out_of_memory(error) or self.sharded or (retried and len(parts[0]) == 1):
                    raise
            else:
                del parts[0]
                continue
            clear_device_cache(garbage_collection=True)
            change = "the memory of the failed try is free now"
            if retried:
                half = len(parts[0]) // 2
                parts[:1] = parts[0][:half], parts[0][half:]
                change = f"the batch is divided into parts of {half} and {len(parts[1])}"
            retried = True
            self.report_out_of_memory(f"out of memory in the evaluation at step {self.state.global_step}: {change}")
