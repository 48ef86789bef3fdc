"""Tiny test inputs: a tokenizer trained on a few sentences, a random Llama, preference pairs, a recipe that uses them."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from support.json_lines import write_json_lines

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SENTENCES = [
    "The capital of France is Paris, and the river is the Seine.",
    "Water boils at one hundred degrees; ice melts at zero.",
    "What colour is the sky? It is blue on a clear day.",
    "I would say that it depends on many things, but here is my answer.",
    "user assistant system question answer plain words and numbers 0123456789",
]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with the tokens of ChatML; it encodes every text without loss."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def tiny_llama(vocabulary: int = 400, *, tied: bool = True, seed: int = 0, layers: int = 2) -> LlamaForCausalLM:
    """A random Llama with about 50,000 weights in its two layers, in float32."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=tied, initializer_range=0.2,
            bos_token_id=1, eos_token_id=2, pad_token_id=0,
        )
    )  # fmt: skip


def save_tiny_model(folder: Path, **options: object) -> Path:
    """Save a random model and its tokenizer to a folder."""
    tokenizer = tiny_tokenizer()
    tiny_llama(len(tokenizer), **options).save_pretrained(folder)  # type: ignore[arg-type]
    tokenizer.save_pretrained(folder)
    return folder


def pairs(count: int, start: int = 0) -> list[dict[str, object]]:
    """Preference pairs in the conversational format of TRL, all different, of several lengths."""
    return [
        {
            "prompt": [
                {"role": "user", "content": f"What is {number} plus {number}?" + " Please tell me." * (number % 3)}
            ],
            "chosen": [{"role": "assistant", "content": f"It is {2 * number}." + " Sure." * (number % 4)}],
            "rejected": [
                {"role": "assistant", "content": f"It depends on {number}, " + "one might say, " * (1 + number % 5)}
            ],
        }
        for number in range(start, start + count)
    ]


def write_pairs(path: Path, count: int, start: int = 0) -> Path:
    """Write ``pairs`` to a jsonl file."""
    write_json_lines(path, pairs(count, start))
    return path


def write_recipe(
    folder: Path, *, steps: int = 3, lora: bool = True, estimated: bool = True, **sections: dict[str, object]
) -> Path:
    """Write a recipe, a tiny model and pairs to a folder; ``sections`` are merged into the recipe.

    ``estimated``: whether the settings of memory are those of the estimate, which takes half of the time of a tiny training.
    """
    if not (folder / "model").exists():
        save_tiny_model(folder / "model")
    write_pairs(folder / "train.jsonl", 24)
    write_pairs(folder / "heldout.jsonl", 8, start=100)
    recipe: dict[str, dict[str, object]] = {
        "model": {"model_name_or_path": "model"},
        "dataset": {"train": {"path": "train.jsonl"}, "eval": {"path": "heldout.jsonl"}, "max_prompt_length": 96},
        "training": {
            "max_steps": steps, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "max_length": 192,
            "learning_rate": 1.0e-3, "eval_strategy": "no", "save_strategy": "no", "warmup_steps": 0,
        },
    }  # fmt: skip
    if not estimated:
        recipe["training"]["gradient_checkpointing"] = False
        recipe["engine"] = {"max_tokens_per_microbatch": 2048}
    if lora:
        recipe["lora"] = {"r": 4, "lora_alpha": 8}
    for name, values in sections.items():
        recipe[name] = {**recipe.get(name, {}), **values}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**recipe, "output_dir": str(folder / "run")}))
    return path
