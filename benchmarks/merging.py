"""Adapter merge: `orpo merge` against PEFT's merge_and_unload and save, on a synthetic checkpoint. Seconds and peak memory.

    python -m benchmarks.merging [--gigabytes 4] [--shards 8] [--rounds 3] [--keep DIR]

The checkpoint is a Llama of random bfloat16 weights in --shards files; the adapter is LoRA (r 16) on every linear layer.
Each side runs in its own process, alternating; its peak is the operating system's count of that process (ru_maxrss). PEFT's
side loads base and adapter, merges and saves, without verification. `orpo merge` is measured in total, and its merge and
verification separately.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.paired import describe_machine
from orpo_cli.library_messages import silence_libraries

PEFT_SCRIPT = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, adapter, output = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(output)
AutoTokenizer.from_pretrained(base).save_pretrained(output)
"""


def write_checkpoint(folder: Path, gigabytes: float, shards: int) -> tuple[Path, Path]:
    """Write a base model of about ``gigabytes``, file by file, and an adapter for it that changes every linear layer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig

    from orpo_cli.merging.meta_model import build_meta_model
    from orpo_cli.merging.sharded_merge import plan_shards
    from orpo_cli.merging.tensor_files import SafetensorsWriter, TensorSpec
    from orpo_cli.model.model_source import ModelSource
    from orpo_cli.recipe.schema import ModelSection

    base, adapter = folder / "base", folder / "adapter"
    base.mkdir(parents=True)
    vocabulary, hidden, wide = 32000, 2048, 5632
    layer = 2 * (hidden * (2 * hidden + 2 * 512) + 3 * hidden * wide + 2 * hidden)  # bytes in bfloat16
    layers = max(1, round((gigabytes * 1e9 - 4 * vocabulary * hidden) / layer))
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=wide, num_hidden_layers=layers,
        num_attention_heads=16, num_key_value_heads=4, architectures=["LlamaForCausalLM"], dtype="bfloat16",
    )  # fmt: skip
    config.save_pretrained(base)
    byte_tokenizer().save_pretrained(base)
    model = build_meta_model(ModelSource(ModelSection(model_name_or_path=str(base))))
    specs = {name: TensorSpec("bfloat16", tuple(each.shape)) for name, each in model.state_dict().items()}
    total = sum(spec.bytes for spec in specs.values())
    files = plan_shards(specs, f"{total // shards // 1000 + 20_000}KB")
    generator = torch.Generator().manual_seed(0)
    for file, names in files.items():
        with SafetensorsWriter(base / file, {name: specs[name] for name in names}) as writer:
            for name in names:
                values = torch.randn(specs[name].shape, generator=generator).mul_(0.02).bfloat16()
                writer.write(name, values if values.ndim > 1 else torch.ones_like(values))
    index = {"metadata": {"total_size": total}, "weight_map": {name: file for file in files for name in files[file]}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))

    tuned = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.02, generator=generator)
    tuned.peft_config["default"].base_model_name_or_path = str(base)
    tuned.save_pretrained(adapter)
    return base, adapter


def byte_tokenizer() -> Any:
    """A tokenizer with one token for each byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(symbols)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<pad>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>")


def run_measured(arguments: Sequence[str]) -> tuple[float, float, str]:
    """Seconds and peak memory (bytes, of the operating system) of a process, and what it printed."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed with {process.returncode}")
    return time.perf_counter() - began, peak_bytes(usage), printed


def peak_bytes(usage: resource.struct_rusage) -> float:
    """Bytes of ru_maxrss."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def compare(folder: Path, gigabytes: float, shards: int, rounds: int) -> dict[str, Any]:
    """Run both sides, alternating; figures of each round."""
    base, adapter = folder / "base", folder / "adapter"
    if not base.exists():
        write_checkpoint(folder, gigabytes, shards)
    files = [each.stat().st_size for each in base.glob("*.safetensors")]
    bound = f"{1.5 * max(files) / 1e9 + 1:.2f}GB"  # a model that fits would be loaded to compare logits
    ours, peft = [], []
    for number in range(rounds):
        out = folder / f"peft-{number}"
        seconds, memory, _ = run_measured(["-c", PEFT_SCRIPT, str(base), str(adapter), str(out)])
        peft.append({"seconds": seconds, "peak": memory})
        remove(out)
        out = folder / f"ours-{number}"
        seconds, memory, printed = run_measured(
            ["-m", "orpo_cli", "merge", str(adapter), "-o", str(out), "--memory", bound, "--json", "-q"]
        )
        document = json.loads(printed)
        ours.append(
            {"seconds": seconds, "peak": memory, **document["seconds_of"], "verification_was": document["verification"]}
        )
        remove(out)
    return {"size": sum(files), "largest": max(files), "files": len(files), "ours": ours, "peft": peft}


def remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="make the checkpoint here, and leave it; one that is there is used")
    options = parser.parse_args(arguments)
    silence_libraries()
    with tempfile.TemporaryDirectory() as temporary:
        found = compare(options.keep or Path(temporary), options.gigabytes, options.shards, options.rounds)
    print(format_table(found, options.rounds))


def format_table(found: dict[str, Any], rounds: int) -> str:
    """The measurements as Markdown."""
    ours, peft = found["ours"], found["peft"]
    bound = 1.5 * found["largest"] + 1e9
    total, merge, verify = (
        statistics.median(each[key] for each in ours) for key in ("seconds", "merge", "verification")
    )
    our_peak, peft_peak = max(each["peak"] for each in ours), max(each["peak"] for each in peft)
    seconds = statistics.median(each["seconds"] for each in peft)
    return (
        f"Merging {found['size'] / 1e9:.2f} GB in {found['files']} files, {describe_machine()}; medians of {rounds} alternating runs\n\n"
        "| | total, s | merge only, s | verification, s | peak, GB |\n| --- | --- | --- | --- | --- |\n"
        f"| PEFT, merge_and_unload and save | {seconds:.1f} | | none | {peft_peak / 1e9:.2f} |\n"
        f"| orpo merge | {total:.1f} | {merge:.1f} | {verify:.1f} ({ours[0]['verification_was']}) | {our_peak / 1e9:.2f} |\n\n"
        f"Memory limit, 1.5 x the largest file plus 1 GB: {bound / 1e9:.2f} GB, {'not exceeded' if our_peak <= bound else 'EXCEEDED'}. "
        f"Total time relative to PEFT: {total / seconds:.2f}."
    )


if __name__ == "__main__":
    main()
