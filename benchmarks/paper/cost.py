"""Cost of a step (section 7.3 of the paper): ORPO without and DPO with a reference model. Time, peak memory, forward passes.

All sides train all weights of the same model on the same pairs, in processes of their own that alternate. DPO is TRL's
DPOTrainer with a frozen copy of the model as reference; ORPO is TRL's ORPOTrainer and orpo-cli's packed step.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from orpo_cli.cli import reexec

SIDES = {"dpo": "DPO, TRL", "orpo": "ORPO, TRL", "packed": "ORPO, orpo-cli"}
PAIRS, STEPS = 4, 4  # the first step is left out
NAMES = ("max_length", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "seed",
         "lr_scheduler_type", "warmup_steps", "save_strategy", "use_cpu", "gradient_checkpointing", "logging_steps")  # fmt: skip
ENVIRONMENT = {reexec.GLIBC_VARIABLE: reexec.GLIBC_VALUE}  # that orpo train sets for itself


def measure(side: str) -> dict[str, Any]:
    """Train ``STEPS`` steps in this process."""
    from benchmarks.paper.runs import PairFile, Results, Trainings
    from benchmarks.step_measurement import load_weights, peak_gb, reset_peak_memory, step_timer

    trainings = Trainings(Results(Path()))
    quickstart = PairFile("quickstart")
    training = {
        "max_steps": STEPS, "per_device_train_batch_size": PAIRS, "learning_rate": 1e-5, "eval_strategy": "no",
        "beta": 0.1, "gradient_checkpointing": False, "warmup_steps": 0, "lr_scheduler_type": "linear",
    }  # fmt: skip
    plan = trainings.plan(quickstart, training, adapter=False).plan
    data, _ = trainings.pairs(quickstart)
    clock = step_timer()
    with tempfile.TemporaryDirectory() as folder:
        trainer = _make_trainer(side, plan, Path(folder), trainings, data, clock)
        counts = count_forward_passes([trainer.model, getattr(trainer, "ref_model", None)], trainer)
        load_weights(trainer.model)
        held = reset_peak_memory()
        trainer.train()
        peak = peak_gb()
    seconds, pairs = clock.seconds[1:], PAIRS * (STEPS - 1)
    return {
        "seconds_per_pair": sum(seconds) / pairs,
        "peak_gb": peak,
        "held_gb": held,
        "sequences_per_pair": counts["sequences"] / pairs,
        "tokens_per_pair": counts["tokens"] / pairs,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }


def _make_trainer(side: str, plan: Any, folder: Path, trainings: Any, data: Any, clock: Any) -> Any:
    if side == "packed":
        from orpo_cli.training.make_trainer import TrainingInputs, make_trainer

        return make_trainer(plan, folder, TrainingInputs(trainings.base, trainings.tokenizer, data), [clock])
    arguments = {name: plan.training[name] for name in NAMES if name in plan.training}
    common = {"report_to": "none", "disable_tqdm": True, "bf16": False, "output_dir": str(folder), **arguments}
    if side == "orpo":
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer

        from orpo_cli.training.padded_batch import PairCollator, TokenizedDataset

        config = ORPOConfig(beta=plan.training["beta"], **common)
        trainer: Any = ORPOTrainer(
            model=trainings.base, args=config, train_dataset=TokenizedDataset(data),
            processing_class=trainings.tokenizer, callbacks=[clock],
        )  # fmt: skip
        trainer.data_collator = PairCollator(trainer.data_collator)
        return trainer
    import copy

    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = [_messages(row) for row in data]
    return DPOTrainer(
        model=trainings.base, ref_model=copy.deepcopy(trainings.base), args=DPOConfig(beta=0.1, **common),
        train_dataset=Dataset.from_list(rows), processing_class=trainings.tokenizer, callbacks=[clock],
    )  # fmt: skip


def _messages(row: dict[str, Any]) -> dict[str, Any]:
    completions = {name: [{"role": "assistant", "content": row[f"{name}_text"]}] for name in ("chosen", "rejected")}
    return {"prompt": json.loads(row["prompt_json"]), **completions}


def count_forward_passes(models: list[Any], trainer: Any) -> dict[str, int]:
    """Count the sequences and tokens of all forward passes after the first step."""
    from transformers import TrainerCallback

    counts = {"sequences": 0, "tokens": 0}

    def count(module: Any, args: Any, kwargs: Any) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        counts["sequences"] += ids.shape[0]
        counts["tokens"] += ids.numel()

    class AfterFirstStep(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step == 1:
                counts.update(sequences=0, tokens=0)

    for model in models:
        if model is not None:
            model.register_forward_pre_hook(count, with_kwargs=True)
    trainer.add_callback(AfterFirstStep())
    return counts


def main() -> None:
    """Measure one side in this process and print its figures."""
    from orpo_cli.library_messages import silence_libraries

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=SIDES)
    silence_libraries()
    print(json.dumps(measure(parser.parse_args().side)))


if __name__ == "__main__":
    main()
