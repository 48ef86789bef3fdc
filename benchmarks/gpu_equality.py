"""Strategies with one process: losses, gradient norms and final weights of FSDP2 and DeepSpeed against ``single``.

    python -m benchmarks.gpu_equality DIR [--workers N]

Each run is an `orpo train` of a small random model in its own process; several run at once. A result is appended to
DIR/equality.jsonl when its run has finished; the output of a run that failed is in DIR/logs. GPU_TINY=1 trains on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

TINY = os.environ.get("GPU_TINY") == "1"
STEPS = 2 if TINY else 6
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
STRATEGIES: dict[str, dict[str, Any]] = {
    "single": {},
    "fsdp": {"launch": {"strategy": "fsdp", "num_processes": 1}},
    **{
        f"zero-{stage}": {
            "launch": {
                "strategy": "deepspeed", "num_processes": 1, "deepspeed_config": {"zero_optimization": {"stage": stage}}
            }
        }
        for stage in (2, 3)
    },
}  # fmt: skip
# Each with its tolerance: relative differences of float32, and those of half precision where sums have another order.
CASES: dict[str, tuple[float, dict[str, Any]]] = {
    "LoRA, float32": (1e-5, {"lora": LORA, "model": {"dtype": "float32"}}),
    "all weights, float32": (1e-5, {"model": {"dtype": "float32"}}),
    "QLoRA": (2e-2, {"lora": LORA, "model": {"dtype": "bfloat16"}, "quantization": {"load_in_4bit": True}, "training": {"bf16": True}}),
    "LoRA, bfloat16": (2e-2, {"lora": LORA, "model": {"dtype": "bfloat16"}, "training": {"bf16": True}}),
    "all weights, bfloat16": (2e-2, {"model": {"dtype": "bfloat16"}, "training": {"bf16": True}}),
}  # fmt: skip
REFUSALS = (2, 3)  # exit codes of `orpo train` for recipes and machines that it refuses


def write_model(folder: Path) -> Path:
    """A random Llama of 4 layers with the tokenizer of ORPO_BENCH_MODEL or of SmolLM2."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from benchmarks.preparation import SMOLLM2
    from orpo_cli.model.model_source import ModelSource
    from orpo_cli.recipe.schema import ModelSection

    source = ModelSource(ModelSection(model_name_or_path=os.environ.get("ORPO_BENCH_MODEL", SMOLLM2)))
    tokenizer = AutoTokenizer.from_pretrained(source.pretrained_name)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=-(-len(tokenizer) // 64) * 64, hidden_size=256, intermediate_size=512, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    ).save_pretrained(folder)  # fmt: skip
    tokenizer.save_pretrained(folder)
    return folder


def make_recipe(case: str, strategy: str, model: Path, file: Path, output: Path) -> dict[str, Any]:
    """A recipe of ``STEPS`` steps of 2 batches of 4 pairs."""
    _, sections = CASES[case]
    if strategy == "fsdp" and "quantization" in sections:  # it divides tensors of one type only
        sections = {**sections, "quantization": {**sections["quantization"], "bnb_4bit_quant_storage": "bfloat16"}}
    return {
        **sections,
        "output_dir": str(output),
        "model": {"model_name_or_path": str(model), **sections["model"]},
        "dataset": {"train": {"path": str(file)}, "max_prompt_length": 128},
        "training": {
            "max_length": 256, "max_steps": STEPS, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2,
            "learning_rate": 1e-3, "logging_steps": 1, "seed": 42, "save_strategy": "no", "eval_strategy": "no",
            "gradient_checkpointing": False, "bf16": False, **sections.get("training", {}),
            **({"use_cpu": True} if TINY else {}),
        },
        **STRATEGIES[strategy],
    }  # fmt: skip


def train(case: str, strategy: str, folder: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    """Run one recipe, and read its metrics."""
    began = time.monotonic()
    path = folder / f"{CASE_NAMES[case]}-{strategy}.json"
    path.write_text(json.dumps(recipe))
    command = [sys.executable, "-m", "orpo_cli", "train", str(path), "--quiet"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    metrics = Path(recipe["output_dir"]) / "metrics.jsonl"
    steps = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    steps = [each for each in steps if "loss" in each]
    found: dict[str, Any] = {"case": case, "strategy": strategy, "seconds": round(time.monotonic() - began, 1)}
    found |= {name: [float(each[name]) for each in steps] for name in ("loss", "grad_norm")}
    if done.returncode:
        refused = done.returncode in REFUSALS and not steps
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        errors = [line for line in lines if "Error" in line or "error:" in line]
        reason = (" ".join(lines) if refused or not errors else errors[-1]).strip()[:400]
        found |= {"status": "not available" if refused else "failed", "reason": reason, "output": done.stdout}
    return found


def compare(found: dict[str, Any], single: dict[str, Any], outputs: tuple[Path, Path]) -> None:
    """Set the status of a run from its differences to ``single``."""
    if "status" in found:
        return
    if single.get("status", "passed") != "passed":
        found |= {"status": "failed", "reason": "single failed, so there is nothing to compare with"}
        return
    for name in ("loss", "grad_norm"):
        pairs = list(zip(found[name], single[name], strict=False))
        found[f"{name}_difference"] = max((abs(a - b) / max(abs(b), 1e-12) for a, b in pairs), default=float("nan"))
    found["weights_difference"] = weights_difference(*outputs)
    tolerance, _ = CASES[found["case"]]
    # an optimizer may turn a rounding of a small gradient into a step of the learning rate, so weights have another tolerance
    equal = found["loss_difference"] <= tolerance and found["grad_norm_difference"] <= 10 * tolerance
    equal = equal and found["weights_difference"] <= 100 * tolerance
    found["status"] = "passed" if equal and len(found["loss"]) == STEPS else "failed"
    if not equal:
        found["reason"] = f"the differences exceed the tolerance of {tolerance:g}"


def weights_difference(output: Path, expected: Path) -> float:
    """The relative difference of the trained weights in two run directories; infinite if their names differ."""
    from safetensors.torch import load_file

    def weights(folder: Path) -> dict[str, Any]:
        files = [path for kind in ("adapter", "model") for path in sorted((folder / kind).glob("*.safetensors"))]
        return {name: each.double() for path in files for name, each in load_file(path).items()}

    found, wanted = weights(output), weights(expected)
    if not wanted or found.keys() != wanted.keys():
        return float("inf")
    total = sum(float(each.square().sum()) for each in wanted.values())
    return float((sum(float((found[name] - each).square().sum()) for name, each in wanted.items()) / total) ** 0.5)


CASE_NAMES = {case: case.replace(", ", "-").replace(" ", "-") for case in CASES}


def main() -> None:
    """Run all cases under all strategies: first all cases with one strategy, then with the next."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the results")
    parser.add_argument("--workers", type=int, default=min(5, os.cpu_count() or 1), help="runs at once")
    parser.add_argument("--strategies", nargs="*", default=list(STRATEGIES), choices=STRATEGIES)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=CASES)
    options = parser.parse_args()
    lock = threading.Lock()
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(options.workers) as pool:
        from benchmarks.preparation import write_synthetic_pairs

        root = Path(temporary)
        model, file = write_model(root / "model"), write_synthetic_pairs(root / "pairs.jsonl", 80)
        singles: dict[str, Future[dict[str, Any]]] = {}

        def run(case: str, strategy: str) -> dict[str, Any]:
            output, single = (root / f"{CASE_NAMES[case]}-{each}" for each in (strategy, "single"))
            found = train(case, strategy, root, make_recipe(case, strategy, model, file, output))
            if strategy != "single":
                compare(found, singles[case].result(), (output, single))
            printed = found.pop("output", None)
            found.setdefault("status", "passed")
            with lock, (options.folder / "equality.jsonl").open("a") as lines:
                lines.write(json.dumps(found) + "\n")
            if found["status"] == "failed":
                failures.append(f"{case}, {strategy}: {found.get('reason')}")
                (options.folder / "logs").mkdir(exist_ok=True)
                (options.folder / "logs" / f"{output.name}.txt").write_text(printed or "the run itself succeeded\n")
            print(case, strategy, found["status"], f"{found['seconds']} s", found.get("reason", ""), flush=True)
            return found

        started = []
        for strategy in ["single", *(each for each in options.strategies if each != "single")]:
            for case in options.cases:
                future = pool.submit(run, case, strategy)
                started.append(future)
                if strategy == "single":
                    singles[case] = future
        for future in started:
            future.result()
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()
