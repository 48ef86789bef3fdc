"""Training runs of the paper's claims: one model, several losses, several seeds, with the scores of every held-out pair.

All runs of a data set share the recipe of the quickstart (a LoRA adapter on the upper half of SmolLM2-135M-Instruct, 8 pairs a
step), the pairs and their number. A condition changes the weights of the two terms of the loss, and nothing else.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from orpo_cli.atomic import atomic_directory

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "recipes" / "quickstart.yaml"
# Condition → values of `training`. SFT is the NLL term alone.
CONDITIONS: dict[str, dict[str, float]] = {
    "sft": {"beta": 0.0},
    "orpo-0.1": {"beta": 0.1},
    "orpo-0.5": {"beta": 0.5},
    "orpo-1.0": {"beta": 1.0},
    "sft-then-orpo": {"beta": 1.0},
    "odds-ratio": {"beta": 1.0, "nll_weight": 0.0},
}
FIRST_STAGE = {"sft-then-orpo": "sft"}  # the run whose merged adapter is the base
CURVES = ("logps/chosen", "logps/rejected", "rewards/accuracies", "nll_loss", "log_odds_ratio", "grad_norm", "loss")


@dataclass(frozen=True)
class PairFile:
    """Pairs of one data set: the quickstart's (no ``path``), or a preference file of which short pairs are used."""

    name: str
    path: str = ""
    pairs: int = 160
    held_out: int = 64
    max_length: int = 256
    learning_rate: float = 7e-4

    def recipe(self) -> dict[str, Any]:
        """The quickstart's recipe on these pairs; pairs longer than ``max_length`` tokens are left out, not truncated."""
        recipe: dict[str, Any] = yaml.safe_load(QUICKSTART.read_text(encoding="utf-8"))
        files = [recipe["dataset"][part] for part in ("train", "eval")]
        if self.path:
            recipe["dataset"] = {"train": {"path": self.path}, "eval": {"test_size": self.held_out}}
            recipe["dataset"] |= {"truncation_mode": "drop", "drop_truncated": True}
        else:
            for file in files:
                file["path"] = str(QUICKSTART.parent / file["path"])
        steps = self.pairs // recipe["training"]["per_device_train_batch_size"]
        recipe["training"] |= {
            "max_length": self.max_length, "learning_rate": self.learning_rate, "max_steps": steps, "use_cpu": True,
            "eval_strategy": "steps", "eval_steps": steps, "eval_on_start": False, "save_strategy": "no",
        }  # fmt: skip
        del recipe["training"]["num_train_epochs"]
        return recipe


@dataclass(frozen=True)
class Run:
    """One training: a data set, a condition, and the seed of the adapter and of the order of the pairs."""

    pairs: PairFile
    condition: str  # or "base": the model before any training
    seed: int = 0

    @property
    def name(self) -> str:
        """Name of the run's file."""
        return (
            f"{self.pairs.name}-base" if self.condition == "base" else f"{self.pairs.name}-{self.condition}-{self.seed}"
        )

    def settings(self) -> dict[str, Any]:
        """Everything that decides the result; files by their content."""
        recipe = self.pairs.recipe()
        training = {} if self.condition == "base" else recipe["training"] | CONDITIONS[self.condition]
        files = [recipe["dataset"][part].get("path") for part in ("train", "eval")]
        digests = [hashlib.sha256(Path(each).read_bytes()).hexdigest()[:16] for each in files if each]
        path = Path(self.pairs.path).name
        return {**asdict(self.pairs), "path": path, "files": digests, "training": training, "seed": self.seed}


class Results:
    """Folder of finished runs: one JSON file each, and the adapters of first stages. A file with other settings counts as missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str, settings: dict[str, Any]) -> dict[str, Any] | None:
        """The record of a finished run."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            return None
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return record if record["settings"] == json.loads(json.dumps(settings)) else None

    def write(self, name: str, settings: dict[str, Any], record: dict[str, Any]) -> None:
        """Keep the record of a finished run; a kill leaves the old file or the new one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".{name}.json"
        partial.write_text(json.dumps({"settings": settings, **record}), encoding="utf-8")
        partial.replace(self.folder / f"{name}.json")

    def adapter(self, name: str) -> Path:
        """Folder of the adapter of a first stage."""
        return self.folder / f"{name}-adapter"


class Trainings:
    """Loaded model and prepared pairs, which all runs of this process share."""

    def __init__(self, results: Results) -> None:
        from orpo_cli.model.onednn import use_onednn
        from orpo_cli.model.vector_math import initialize_vector_math
        from orpo_cli.training.allocator import keep_freed_memory, reserve_small_chunks

        keep_freed_memory()
        reserve_small_chunks()
        use_onednn()
        initialize_vector_math()
        self.results = results
        self._prepared: dict[PairFile, tuple[Any, Any]] = {}

    @cached_property
    def base(self) -> Any:
        """The model before training, in float32."""
        import torch
        from transformers import AutoModelForCausalLM

        name = self.plan(PairFile("quickstart"), {}).source.pretrained_name
        return AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, attn_implementation="sdpa").eval()

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the model."""
        from orpo_cli.model.tokenizer import load_tokenizer

        return load_tokenizer(self.plan(PairFile("quickstart"), {}).source)

    def plan(self, pairs: PairFile, training: dict[str, Any], *, adapter: bool = True) -> Any:
        """The plan of a run, with ``training`` in its recipe; without ``adapter`` all weights are trained."""
        from orpo_cli.recipe.load import load_recipe
        from orpo_cli.report.console import Console
        from orpo_cli.workflows.plan import build_plan

        recipe = pairs.recipe()
        recipe["training"] |= training
        if not adapter:
            del recipe["lora"]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "recipe.json"
            path.write_text(json.dumps(recipe), encoding="utf-8")
            return build_plan(load_recipe(str(path)), Console(quiet=True), to_train=True, strict=False)

    def pairs(self, pairs: PairFile) -> tuple[Any, Any]:
        """Tokenized training and held-out pairs, the same for every run."""
        from orpo_cli.data.prepare import prepare

        if pairs not in self._prepared:
            plan = self.plan(pairs, {}).plan
            length, prompt = plan.training["max_length"], plan.dataset.max_prompt_length
            data = prepare(plan.dataset, self.tokenizer, note=print, max_length=length, max_prompt_length=prompt)
            if len(data.train) < pairs.pairs:
                raise SystemExit(
                    f"{pairs.path}: {len(data.train)} pairs of at most {length} tokens; {pairs.pairs} are needed"
                )
            assert data.eval is not None, "the plan has held-out pairs"
            self._prepared[pairs] = data.train.select(range(pairs.pairs)), data.eval.select(range(pairs.held_out))
        return self._prepared[pairs]

    def run(self, run: Run) -> dict[str, Any]:
        """Train as ``run`` says and keep its record."""
        began = time.perf_counter()
        record = self._score_base(run) if run.condition == "base" else self._train(run)
        record["seconds"] = round(time.perf_counter() - began, 1)
        self.results.write(run.name, run.settings(), record)
        return record

    def _score_base(self, run: Run) -> dict[str, Any]:
        from orpo_cli.training.packed_scoring import make_scorer

        _, held_out = self.pairs(run.pairs)
        rows = [held_out[at] for at in range(len(held_out))]
        scores = make_scorer(self.plan(run.pairs, {}).plan, {})(self.base, rows)
        return {"evaluations": [_evaluation(0, scores)]}

    def _train(self, run: Run) -> dict[str, Any]:
        from transformers import TrainerCallback, set_seed

        from orpo_cli.training.make_trainer import TrainingInputs, make_trainer

        evaluations = []

        class Recorder(TrainerCallback):
            def on_evaluate(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
                evaluations.append(_evaluation(state.global_step, trainer.eval_scores))

        plan = self.plan(run.pairs, {**CONDITIONS[run.condition], "seed": run.seed}).plan
        train, held_out = self.pairs(run.pairs)
        set_seed(run.seed)
        with tempfile.TemporaryDirectory() as folder:
            inputs = TrainingInputs(self._model_of(run), self.tokenizer, train, held_out)
            trainer = make_trainer(plan, Path(folder), inputs, [Recorder()], print)
            trainer.train()
        if run.condition in FIRST_STAGE.values():
            target = self.results.adapter(run.name)
            shutil.rmtree(target, ignore_errors=True)
            with atomic_directory(target) as staged:
                trainer.model.save_pretrained(staged)
        logged = [entry for entry in trainer.state.log_history if "loss" in entry]
        curves = {name: [round(float(entry[name]), 6) for entry in logged] for name in CURVES}
        return {"evaluations": evaluations, "curves": curves, "packed_step": trainer.uses_engine}

    def _model_of(self, run: Run) -> Any:
        """The base; for a second stage, with the adapter of the first stage merged into it."""
        model = copy.deepcopy(self.base)
        if run.condition not in FIRST_STAGE:
            return model
        from peft import PeftModel

        first = Run(run.pairs, FIRST_STAGE[run.condition], run.seed)
        return PeftModel.from_pretrained(model, str(self.results.adapter(first.name))).merge_and_unload()


def _evaluation(step: int, scores: Any) -> dict[str, Any]:
    """Mean log-probability of each held-out completion, in nats per token."""
    return {"step": step, "chosen": scores.chosen.tolist(), "rejected": scores.rejected.tolist()}
